//! Numbers as people read them.

/// With a comma at every three digits: `3,801`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole, to two digits that count: `2.1 %`, `0.053 %`. Nothing of nothing is `0 %`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    share(part as f64 / whole.max(1) as f64)
}

/// A share (0 to 1) as [`percent`] writes it.
pub(crate) fn share(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        _ if percent >= 10.0 => 0,
        _ if percent >= 1.0 => 1,
        _ if percent >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// Microseconds in the unit that reads best: `84 ms`, `2.4 ms`, `310 µs`, `1.25 s`.
pub(crate) fn latency(us: f64) -> String {
    match us {
        _ if us < 1_000.0 => format!("{us:.0} µs"),
        _ if us < 10_000.0 => format!("{:.1} ms", us / 1e3),
        _ if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// What evidence says of chance. By Ville's inequality, evidence as high as `e` comes about by chance at most
/// once in `e` times; it is told rounded down to a power of ten.
pub(crate) fn chance(e: f64) -> String {
    if e < 10.0 {
        return "which may be chance".to_owned();
    }
    let whole = 10_u64.pow(e.min(1e9).log10().floor() as u32);
    format!("chance under 1 in {}", number(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 12, 412, 3_801, 1_234_567].map(number), ["0", "12", "412", "3,801", "1,234,567"]);
        assert_eq!(
            [(0, 0), (1, 3), (21, 1_000), (1, 1_000), (1, 1_900)].map(|(a, b)| percent(a, b)),
            ["0 %", "33 %", "2.1 %", "0.1 %", "0.053 %"]
        );
        assert_eq!(
            [310.4, 2_440.0, 84_300.0, 1_250_000.0].map(latency),
            ["310 µs", "2.4 ms", "84 ms", "1.25 s"]
        );
        assert_eq!(
            [3.0, 999.0, 1_000.0, 5e11].map(chance),
            [
                "which may be chance",
                "chance under 1 in 100",
                "chance under 1 in 1,000",
                "chance under 1 in 1,000,000,000",
            ]
        );
    }
}
