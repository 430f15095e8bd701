//! What somebody meant who wrote a name that does not exist.

/// The candidate nearest to `name`, if it is near enough that a slip of the hand explains the difference:
/// one edit in three characters, and one at least.
pub(crate) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let allowed = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Names as a list for people: `a`, `b`, `c`.
pub(crate) fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = ["instances", "needs", "as", "env", "run"];
        assert_eq!(nearest("instnaces", keys), Some("instances"));
        assert_eq!(nearest("need", keys), Some("needs"));
        assert_eq!(nearest("runs", keys), Some("run"));
        assert_eq!(nearest("store", keys), None);
        assert_eq!(nearest("x", keys), None);
        assert_eq!(nearest("instances", []), None);
    }
}
