//! What the braces of a flow stand for during one play of it.

use crate::random::Random;
use std::borrow::Cow;
use std::fmt::Write as _;

/// How many users there are: `{user.id}` is `user-1` to `user-1000`, so that a service that keeps something
/// per user meets the same ones again.
pub const USERS: u64 = 1000;

/// The values of one play.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    uuid: String,
    user: String,
    environment: String,
    saved: Vec<(String, String)>,
}

impl Values {
    pub(crate) fn new(uuid: String, random: &mut Random, environment: &str) -> Self {
        let user = format!("user-{}", 1 + random.below(USERS));
        Self { uuid, user, environment: environment.to_owned(), saved: Vec::new() }
    }

    pub(crate) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Keeps a value for later steps; the last one under a name counts.
    pub(crate) fn save(&mut self, name: &str, value: String) {
        match self.saved.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.saved.push((name.to_owned(), value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let text = match name {
            "uuid" => &self.uuid,
            "user.id" => &self.user,
            "environment.name" => &self.environment,
            saved => &self.saved.iter().find(|(known, _)| known == saved)?.1,
        };
        Some(Cow::Borrowed(text))
    }

    /// The value as it may stand in a path or query.
    pub(crate) fn in_path(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(percent_encoded)
    }
}

/// Everything but the unreserved characters of RFC 3986 (2.3) becomes `%XX`: a value is data, so that a
/// slash, a question mark or an ampersand in it does not become part of the address.
pub(crate) fn percent_encoded(text: Cow<'_, str>) -> Cow<'_, str> {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if text.bytes().all(unreserved) {
        return text;
    }
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if unreserved(byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_paths_are_data() {
        let table = [
            ("sku-1._~", "sku-1._~"),
            ("a b", "a%20b"),
            ("a/b?c&d=e#f", "a%2Fb%3Fc%26d%3De%23f"),
            ("50%", "50%25"),
            ("é", "%C3%A9"),
            ("\r\n", "%0D%0A"),
            ("", ""),
        ];
        for (text, expected) in table {
            assert_eq!(percent_encoded(Cow::Borrowed(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn a_play_has_one_uuid_and_one_user_of_a_bounded_set() {
        let mut random = Random::new(1);
        for _ in 0..5_000 {
            let values = Values::new("u".into(), &mut random, "staging");
            assert_eq!(values.get("user.id"), values.get("user.id"));
            let user = values.get("user.id").unwrap();
            let number: u64 = user.strip_prefix("user-").unwrap().parse().unwrap();
            assert!((1..=USERS).contains(&number), "{user}");
            assert_eq!(values.get("environment.name").unwrap(), "staging");
        }
    }

    #[test]
    fn the_last_value_saved_under_a_name_counts() {
        let mut values = Values::new("u".into(), &mut Random::new(1), "dev");
        assert_eq!(values.get("sku"), None);
        values.save("sku", "a/1".into());
        values.save("sku", "b/2".into());
        assert_eq!(values.get("sku").unwrap(), "b/2");
        assert_eq!(values.in_path("sku").unwrap(), "b%2F2");
    }
}
