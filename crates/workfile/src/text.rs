//! Durations, sizes and shares as people write them: a number and a unit, without a space.

use std::time::Duration;

/// The longest duration that can be given. Longer ones are slips of the unit, and sums of durations below it
/// cannot overflow.
pub const DURATION_LIMIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The largest size, in bytes, a file may name: what a signed 64-bit number holds.
pub(crate) const SIZE_LIMIT: u64 = i64::MAX as u64;

/// Digits before or after the decimal point; more cannot be meant and would overflow.
const DIGITS_LIMIT: usize = 19;

/// Nanoseconds per unit, the largest first.
const DURATION_UNITS: [(&str, u128); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Bytes per unit: those of IEC 80000-13 first, the largest first, because sizes are shown in them.
const SIZE_UNITS: [(&str, u128); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number and a unit.
    #[error("a duration is a number and one of ms, s, m, h, d, such as \"30s\"")]
    Form,
    /// More than [`DURATION_LIMIT`].
    #[error("a duration is at most {}", show_duration(DURATION_LIMIT))]
    TooLong,
}

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// Not a number and a unit.
    #[error("a size is a number and one of B, KiB, MiB, GiB, KB, MB, GB, such as \"64MiB\"")]
    Form,
    /// More than [`SIZE_LIMIT`].
    #[error("a size is at most {SIZE_LIMIT}B")]
    TooLarge,
}

/// Why a text is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShareError {
    /// Not a number and `%`.
    #[error("a share is a number and %, such as \"0.1%\"")]
    Form,
    /// More than everything.
    #[error("a share is at most 100%")]
    TooLarge,
}

/// Reads a duration as the file has it: `"30s"`, `"1.5h"`; the units are ms, s, m, h and d. Exact to the
/// nanosecond: what is finer is refused.
///
/// # Errors
/// When it is not a number and a unit without a space, or is longer than [`DURATION_LIMIT`].
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let nanos = units(text, &DURATION_UNITS).ok_or(DurationError::Form)?;
    if nanos > DURATION_LIMIT.as_nanos() {
        return Err(DurationError::TooLong);
    }
    Ok(Duration::from_nanos(u64::try_from(nanos).expect("a year of nanoseconds fits 64 bits")))
}

/// Writes a duration so that [`parse_duration`] reads the same one: in the largest unit that divides it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    match DURATION_UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None => {
            let text = format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
            format!("{}ms", text.trim_end_matches('0'))
        }
    }
}

/// Reads `"64MiB"`, in bytes. A fraction must come out at whole bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let bytes = units(text, &SIZE_UNITS).ok_or(SizeError::Form)?;
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= SIZE_LIMIT).ok_or(SizeError::TooLarge)
}

/// Writes a size so that [`parse_size`] reads the same one.
pub(crate) fn show_size(bytes: u64) -> String {
    let divides = |unit: &u128| bytes > 0 && u128::from(bytes).is_multiple_of(*unit);
    match SIZE_UNITS.iter().find(|(_, unit)| divides(unit)) {
        Some((name, unit)) => format!("{}{name}", u128::from(bytes) / unit),
        None => format!("{bytes}B"),
    }
}

/// Reads `"0.1%"` as 0 to 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, ShareError> {
    let number = text.strip_suffix('%').ok_or(ShareError::Form)?;
    split(number).filter(|(_, _, unit)| unit.is_empty()).ok_or(ShareError::Form)?;
    let percent: f64 = number.parse().map_err(|_| ShareError::Form)?;
    if percent > 100.0 { Err(ShareError::TooLarge) } else { Ok(percent / 100.0) }
}

/// Writes a share for people: `0.01` is `1%`.
pub(crate) fn show_share(share: f64) -> String {
    format!("{}%", share * 100.0)
}

/// The number of smallest units in `text`. None unless it is a number and a unit and comes out whole.
fn units(text: &str, table: &[(&str, u128)]) -> Option<u128> {
    let (whole, fraction, unit) = split(text)?;
    let (_, factor) = table.iter().find(|(name, _)| *name == unit)?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? * factor };
    part.is_multiple_of(scale).then_some(())?;
    Some(whole.parse::<u128>().ok()? * factor + part / scale)
}

/// Splits `"1.5s"` into `"1"`, `"5"` and `"s"`; a point needs digits on both sides.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, unit) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let point_alone = rest.starts_with('.') && fraction.is_empty();
    let long = whole.len() > DIGITS_LIMIT || fraction.len() > DIGITS_LIMIT;
    (!whole.is_empty() && !point_alone && !long).then_some((whole, fraction, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let table = [
            ("0s", 0),
            ("30s", 30_000_000_000),
            ("500ms", 500_000_000),
            ("1.5s", 1_500_000_000),
            ("10m", 600_000_000_000),
            ("2h", 7_200_000_000_000),
            ("1d", 86_400_000_000_000),
            ("0.000001ms", 1),
            ("365d", 31_536_000_000_000_000),
        ];
        for (text, nanos) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for bad in [
            "",
            "30",
            "s",
            "30 s",
            " 30s",
            "30sec",
            "-1s",
            "+1s",
            "1.s",
            ".5s",
            "1e3s",
            "1,5s",
            "0.0000001ms",
        ] {
            assert_eq!(parse_duration(bad), Err(DurationError::Form), "{bad:?}");
        }
        for long in ["366d", "9999999999999999999d"] {
            assert_eq!(parse_duration(long), Err(DurationError::TooLong), "{long}");
        }
        assert_eq!(parse_duration("99999999999999999999s"), Err(DurationError::Form));
    }

    #[test]
    fn sizes_are_a_number_and_a_unit() {
        let table = [
            ("0B", 0),
            ("1B", 1),
            ("1KiB", 1024),
            ("1.5KiB", 1536),
            ("64MiB", 67_108_864),
            ("2GiB", 2_147_483_648),
            ("1KB", 1000),
            ("3MB", 3_000_000),
            ("4GB", 4_000_000_000),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "64", "64mb", "64Mib", "64 MiB", "1.5B", "-1B", "MiB"] {
            assert_eq!(parse_size(bad), Err(SizeError::Form), "{bad:?}");
        }
        assert_eq!(parse_size("9999999999999999999GiB"), Err(SizeError::TooLarge));
    }

    #[test]
    fn shares_are_a_number_and_percent() {
        for (text, share) in [("0%", 0.0), ("0.1%", 0.001), ("1%", 0.01), ("50%", 0.5), ("100%", 1.0)] {
            assert!((parse_share(text).unwrap() - share).abs() < 1e-12, "{text}");
        }
        for bad in ["", "%", "1", "0.1 %", "-1%", "1e1%", "inf%", "NaN%", "1.%"] {
            assert_eq!(parse_share(bad), Err(ShareError::Form), "{bad:?}");
        }
        assert_eq!(parse_share("100.1%"), Err(ShareError::TooLarge));
        assert_eq!(show_share(0.01), "1%");
    }

    proptest! {
        #[test]
        fn durations_round_trip(nanos in 0..=31_536_000_000_000_000_u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn whole_seconds_round_trip(seconds in 0..=31_536_000_u64) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes in 0..=SIZE_LIMIT) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
    }
}
