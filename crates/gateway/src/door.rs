//! The preview door: which stamp, and which instance of it, a request's own fields ask for.

use crate::fault::{Fault, Refusal};
use crate::routes::{Routes, Target};
use api::gateway::{INSTANCE_HEADER, PREVIEW_HEADER, STAMP_HEADER};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

const STAMP: HeaderName = HeaderName::from_static(STAMP_HEADER);
const PREVIEW: HeaderName = HeaderName::from_static(PREVIEW_HEADER);
const INSTANCE: HeaderName = HeaderName::from_static(INSTANCE_HEADER);

/// What was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The candidate or the active stamp, whichever the user has.
    pub(crate) stamp: Option<Side>,
    /// One instance, by its index.
    pub(crate) instance: Option<u32>,
}

/// A stamp that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Active,
    Candidate,
}

impl Wish {
    /// Nothing was asked for.
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Reads the wish and removes the three fields, whoever sent them: no instance ever sees the token.
pub(crate) fn wish(fields: &mut HeaderMap, token: &str) -> Result<Wish, Refusal> {
    let (stamp, instance, given) = (fields.remove(STAMP), fields.remove(INSTANCE), fields.remove(PREVIEW));
    if stamp.is_none() && instance.is_none() {
        return Ok(Wish::default());
    }
    let given = given.as_ref().map_or(&b""[..], |given| given.as_bytes());
    if token.is_empty() || !same(given, token.as_bytes()) {
        let detail = format!(
            "{STAMP_HEADER} and {INSTANCE_HEADER} need {PREVIEW_HEADER} with this environment's token"
        );
        return Err(Refusal::new(Fault::PreviewRefused, detail));
    }
    let stamp = match stamp.as_ref().map(|stamp| stamp.as_bytes()) {
        None => None,
        Some(b"active") => Some(Side::Active),
        Some(b"candidate") => Some(Side::Candidate),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            return Err(Refusal::new(
                Fault::BadStamp,
                format!("{STAMP_HEADER} is `active`, `candidate` or left out, not `{other}`"),
            ));
        }
    };
    let instance = match instance {
        None => None,
        Some(value) => {
            let index = value.to_str().ok().and_then(|text| text.parse().ok());
            let bad =
                || Refusal::new(Fault::BadStamp, format!("{INSTANCE_HEADER} is a number, not {value:?}"));
            Some(index.ok_or_else(bad)?)
        }
    };
    Ok(Wish { stamp, instance })
}

/// Writes a wish that was granted into a request that is written down, for [`recall`].
pub(crate) fn remember(wish: Wish, fields: &mut HeaderMap) {
    let stamp = wish.stamp.map(|side| match side {
        Side::Active => "active",
        Side::Candidate => "candidate",
    });
    if let Some(stamp) = stamp {
        fields.insert(STAMP, HeaderValue::from_static(stamp));
    }
    if let Some(index) = wish.instance {
        fields.insert(INSTANCE, HeaderValue::from(index));
    }
}

/// Takes out what [`remember`] wrote. Nobody else can have: [`wish`] removes the fields from every request.
pub(crate) fn recall(fields: &mut HeaderMap) -> Wish {
    let (stamp, instance) = (fields.remove(STAMP), fields.remove(INSTANCE));
    let stamp = stamp.map(|stamp| match stamp.as_bytes() {
        b"candidate" => Side::Candidate,
        _ => Side::Active,
    });
    let instance = instance.and_then(|index| index.to_str().ok()?.parse().ok());
    Wish { stamp, instance }
}

/// The stamp the wish leads to.
pub(crate) fn target(wish: Wish, routes: &Routes) -> Result<&Arc<Target>, Refusal> {
    let target = if wish.stamp == Some(Side::Candidate) {
        let none = || Refusal::new(Fault::NoCandidate, "no release is waiting for its promotion");
        routes.candidate.as_ref().ok_or_else(none)?
    } else {
        routes.active.as_ref().ok_or_else(no_active_stamp)?
    };
    if let Some(index) = wish.instance
        && !target.instances.iter().any(|instance| instance.index == index)
    {
        return Err(Refusal::new(Fault::NoInstance, format!("no instance {index} is ready")));
    }
    Ok(target)
}

/// Nothing serves.
pub(crate) fn no_active_stamp() -> Refusal {
    Refusal::new(Fault::NoActiveStamp, "no release was promoted yet, or none runs since the start")
}

/// Compares in a time that tells nothing but the length.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let different = given.iter().zip(wanted).fold(0, |different, (a, b)| different | (a ^ b));
    given.len() == wanted.len() && std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let wanted = |stamp, instance| Ok(Wish { stamp, instance });
        let candidate = Some(Side::Candidate);
        for (fields, expected) in [
            (&[][..], wanted(None, None)),
            (&[(PREVIEW, "wrong")], wanted(None, None)),
            (&[(STAMP, "candidate"), (PREVIEW, "secret")], wanted(candidate, None)),
            (&[(INSTANCE, "2"), (PREVIEW, "secret")], wanted(None, Some(2))),
            (&[(STAMP, "candidate"), (INSTANCE, "0"), (PREVIEW, "secret")], wanted(candidate, Some(0))),
            (&[(STAMP, "candidate")], Err(Fault::PreviewRefused)),
            (&[(STAMP, "candidate"), (PREVIEW, "secres")], Err(Fault::PreviewRefused)),
            (&[(STAMP, "candidate"), (PREVIEW, "secret1")], Err(Fault::PreviewRefused)),
            (&[(STAMP, "candidate"), (PREVIEW, "")], Err(Fault::PreviewRefused)),
            (&[(INSTANCE, "0")], Err(Fault::PreviewRefused)),
            (&[(STAMP, "active"), (PREVIEW, "secret")], wanted(Some(Side::Active), None)),
            (&[(STAMP, "other"), (PREVIEW, "secret")], Err(Fault::BadStamp)),
            (&[(INSTANCE, "one"), (PREVIEW, "secret")], Err(Fault::BadStamp)),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(name, HeaderValue::from_static(value));
            }
            let got = wish(&mut map, "secret").map_err(|refusal| refusal.fault);
            assert_eq!(got, expected, "{fields:?}");
            assert!(map.is_empty(), "{map:?} would be forwarded");
        }
    }

    #[test]
    fn a_wish_outlives_its_request() {
        for wish in [
            Wish::default(),
            Wish { stamp: Some(Side::Candidate), instance: None },
            Wish { stamp: Some(Side::Active), instance: Some(3) },
            Wish { stamp: None, instance: Some(0) },
        ] {
            let mut fields = HeaderMap::new();
            remember(wish, &mut fields);
            assert_eq!(recall(&mut fields), wish);
            assert!(fields.is_empty(), "{fields:?}");
        }
    }

    #[test]
    fn without_a_token_the_door_is_shut() {
        let mut map = HeaderMap::new();
        map.insert(STAMP, HeaderValue::from_static("candidate"));
        map.insert(PREVIEW, HeaderValue::from_static(""));
        assert_eq!(wish(&mut map, "").map_err(|refusal| refusal.fault), Err(Fault::PreviewRefused));
    }
}
