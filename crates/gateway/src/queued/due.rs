//! Times that a request or an answer names: in so many seconds, or at a date (RFC 9110, 10.2.3).

use crate::fault::{Fault, Refusal};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use model::queue::FURTHEST_DELIVERY;
use std::time::{Duration, SystemTime};

/// When a job is to be delivered: seconds from now, or an HTTP date. A date that has passed is now.
pub(crate) const DELIVER_AFTER: HeaderName = HeaderName::from_static("mainstay-deliver-after");

/// Reads and removes the field. The delay until the job is due.
///
/// # Errors
/// [`Fault::BadDelivery`]: malformed, given twice, or further away than [`FURTHEST_DELIVERY`].
pub(crate) fn take(fields: &mut HeaderMap, now: SystemTime) -> Result<Option<Duration>, Refusal> {
    let mut lines = fields.get_all(DELIVER_AFTER).iter();
    let (Some(line), further) = (lines.next(), lines.next()) else { return Ok(None) };
    let seen = String::from_utf8_lossy(line.as_bytes());
    let bad = |why: &str| {
        let hint = "it is a number of seconds or a date such as `Sun, 06 Nov 1994 08:49:37 GMT`";
        Refusal::new(Fault::BadDelivery, format!("Mainstay-Deliver-After: {seen} {why}; {hint}"))
    };
    if further.is_some() {
        return Err(bad("is given more than once"));
    }
    let delay = delay(line, now).ok_or_else(|| bad("cannot be read"))?;
    if delay > FURTHEST_DELIVERY {
        return Err(bad(&format!("is more than {} days away", FURTHEST_DELIVERY.as_secs() / 86_400)));
    }
    fields.remove(DELIVER_AFTER);
    Ok(Some(delay))
}

/// How far away a time is that is given in seconds or as an HTTP date (RFC 9110, 5.6.7). None: it is neither.
pub(crate) fn delay(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More seconds than can be counted are as far away as possible.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (line, expected) in [
            ("0", Some(0)),
            ("90", Some(90)),
            (" 90 ", Some(90)),
            ("31536000", Some(31_536_000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("31536001", None),
            ("99999999999999999999999", None),
            ("Tue, 07 Nov 1995 08:49:37 GMT", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("tomorrow", None),
            ("1994-11-06T08:49:37Z", None),
        ] {
            let mut fields = HeaderMap::new();
            fields.append(DELIVER_AFTER, HeaderValue::from_static(line));
            match (take(&mut fields, now), expected) {
                (Ok(Some(delay)), Some(seconds)) => {
                    assert_eq!(delay, Duration::from_secs(seconds), "{line}");
                    assert!(fields.is_empty(), "it is not for the service");
                }
                (Err(refusal), None) => assert_eq!(refusal.fault, Fault::BadDelivery, "{line}"),
                (other, _) => panic!("{line}: {other:?}"),
            }
        }
        assert_eq!(take(&mut HeaderMap::new(), now).unwrap(), None);
        let mut twice = HeaderMap::new();
        twice.append(DELIVER_AFTER, HeaderValue::from_static("1"));
        twice.append(DELIVER_AFTER, HeaderValue::from_static("1"));
        assert!(take(&mut twice, now).is_err());
    }
}
