//! The access line: one JSON object per request, with stable fields, written by hand because it is written for
//! every request.

use crate::limits::LINE_FIELD_BYTES;
use crate::routes::Target;
use http::{HeaderValue, Request, header};
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

/// What is known when an exchange ends.
pub(crate) struct End<'a> {
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    /// How long it waited for an instance.
    pub(crate) held: Duration,
    /// The stamp before has answered, or a file that is left of it.
    pub(crate) previous: bool,
    pub(crate) target: Option<&'a Target>,
    /// The name of its route there.
    pub(crate) route: Option<&'a str>,
    pub(crate) instance: Option<u32>,
    pub(crate) attempts: u32,
    pub(crate) error: Option<&'static str>,
    /// For requests to queued routes and for deliveries: the number of the job, if it is one, and what this line tells
    /// of it.
    pub(crate) job: Option<(Option<u64>, &'static str)>,
}

/// Begins the line in `line`, whatever was there, with what is known when a request arrives.
pub(crate) fn begin<B>(line: &mut Vec<u8>, id: &HeaderValue, client: IpAddr, request: Option<&Request<B>>) {
    line.clear();
    line.extend_from_slice(b"{\"ts\":\"");
    timestamp(line, api::clock::unix_ms());
    line.extend_from_slice(b"\",\"request_id\":");
    string(line, id.as_bytes());
    write!(line, ",\"client\":\"{client}\",\"method\":").expect("writing to memory cannot fail");
    string(line, request.map_or("", |request| request.method().as_str()).as_bytes());
    line.extend_from_slice(b",\"host\":");
    let host = request.and_then(|request| request.headers().get(header::HOST));
    string(line, host.map_or(b"", HeaderValue::as_bytes));
    line.extend_from_slice(b",\"path\":");
    let target = request.and_then(|request| request.uri().path_and_query());
    string(line, target.map_or("", |target| target.as_str()).as_bytes());
}

/// Begins the line of a delivery, which has no client.
pub(crate) fn begin_delivery(
    line: &mut Vec<u8>,
    id: &HeaderValue,
    method: &str,
    host: &HeaderValue,
    path_and_query: &str,
) {
    line.clear();
    line.extend_from_slice(b"{\"ts\":\"");
    timestamp(line, api::clock::unix_ms());
    line.extend_from_slice(b"\",\"request_id\":");
    string(line, id.as_bytes());
    line.extend_from_slice(b",\"client\":null,\"method\":");
    string(line, method.as_bytes());
    line.extend_from_slice(b",\"host\":");
    string(line, host.as_bytes());
    line.extend_from_slice(b",\"path\":");
    string(line, path_and_query.as_bytes());
}

/// Ends the line that was begun in `line`.
pub(crate) fn end(line: &mut Vec<u8>, end: &End<'_>) {
    let mut digits = itoa::Buffer::new();
    let mut number = |line: &mut Vec<u8>, name: &[u8], value: u64| {
        line.extend_from_slice(name);
        line.extend_from_slice(digits.format(value).as_bytes());
    };
    if end.status == 0 {
        line.extend_from_slice(b",\"status\":null");
    } else {
        number(line, b",\"status\":", u64::from(end.status));
    }
    number(line, b",\"bytes_in\":", end.bytes_in);
    number(line, b",\"bytes_out\":", end.bytes_out);
    number(line, b",\"duration_us\":", u64::try_from(end.duration.as_micros()).unwrap_or(u64::MAX));
    number(line, b",\"held_ms\":", u64::try_from(end.held.as_millis()).unwrap_or(u64::MAX));
    if let Some(target) = end.target {
        number(line, b",\"stamp\":\"s", target.slot.stamp.0);
        line.extend_from_slice(b"\",\"release\":");
        string(line, target.name.as_bytes());
    } else {
        line.extend_from_slice(b",\"stamp\":null,\"release\":null");
    }
    line.extend_from_slice(b",\"route\":");
    match end.route {
        Some(route) => string(line, route.as_bytes()),
        None => line.extend_from_slice(b"null"),
    }
    match end.instance {
        Some(index) => number(line, b",\"instance\":", u64::from(index)),
        None => line.extend_from_slice(b",\"instance\":null"),
    }
    number(line, b",\"attempts\":", u64::from(end.attempts));
    line.extend_from_slice(if end.previous { b",\"previous\":true" } else { b",\"previous\":false" });
    line.extend_from_slice(b",\"error\":");
    match end.error {
        Some(error) => string(line, error.as_bytes()),
        None => line.extend_from_slice(b"null"),
    }
    if let Some((job, what)) = end.job {
        match job {
            Some(job) => number(line, b",\"job\":", job),
            None => line.extend_from_slice(b",\"job\":null"),
        }
        line.extend_from_slice(b",\"queued\":");
        string(line, what.as_bytes());
    }
    line.extend_from_slice(b"}\n");
}

/// `bytes` as a JSON string (RFC 8259, 7). What is not UTF-8 becomes U+FFFD; beyond [`LINE_FIELD_BYTES`] it is
/// cut.
fn string(line: &mut Vec<u8>, bytes: &[u8]) {
    line.push(b'"');
    let cut = &bytes[..bytes.len().min(LINE_FIELD_BYTES)];
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\';
    if cut.iter().all(plain) {
        line.extend_from_slice(cut);
    } else {
        for character in String::from_utf8_lossy(cut).chars() {
            match character {
                '"' => line.extend_from_slice(b"\\\""),
                '\\' => line.extend_from_slice(b"\\\\"),
                '\0'..='\u{1f}' | '\u{7f}' => {
                    write!(line, "\\u{:04x}", character as u32).expect("writing to memory cannot fail");
                }
                _ => line.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    line.push(b'"');
}

/// RFC 3339 in UTC with milliseconds: `2026-01-31T23:59:59.007Z`.
pub(crate) fn timestamp(line: &mut Vec<u8>, unix_ms: u64) {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days to a date, counted in years that begin in March, so that the leap day is the last one: Howard
    // Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let two = |n: u64| [b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
    line.extend_from_slice(&two(year / 100));
    line.extend_from_slice(&two(year % 100));
    for (separator, number) in
        [(b'-', month), (b'-', day), (b'T', ms / 3_600_000), (b':', ms / 60_000 % 60), (b':', ms / 1000 % 60)]
    {
        line.push(separator);
        line.extend_from_slice(&two(number));
    }
    line.push(b'.');
    line.push(b'0' + (ms / 100 % 10) as u8);
    line.extend_from_slice(&two(ms % 100));
    line.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(unix_ms: u64) -> String {
        let mut line = Vec::new();
        timestamp(&mut line, unix_ms);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        // From `date -u -d @SECONDS`.
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_007, "2000-03-01T00:00:00.007Z"),
            (1_709_210_096_120, "2024-02-29T12:34:56.120Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599_001, "2026-12-31T23:59:59.001Z"),
        ] {
            assert_eq!(stamp(unix_ms), text);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_become_a_json_string(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut line = Vec::new();
            string(&mut line, &bytes);
            let text: String = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_long_field_is_cut() {
        let mut line = Vec::new();
        string(&mut line, &vec![b'a'; LINE_FIELD_BYTES + 1]);
        assert_eq!(line.len(), LINE_FIELD_BYTES + 2);
    }
}
