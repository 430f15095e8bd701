//! What keeps a user on one stamp while a release shifts: who a request's user is, and where that user stands.

use http::HeaderMap;
use http::header::{COOKIE, HeaderName, HeaderValue};
use model::name::ReleaseNumber;
use model::workload::Affinity;

/// The cookie the gateway sets where nothing else tells users apart: 64 random bits in hexadecimal digits. It ends
/// with the browser's session: a shift takes minutes.
const OWN_COOKIE: &str = "mainstay-affinity";
/// Digits of its value.
const OWN_DIGITS: usize = 16;

/// All users, of whom a weight is a part.
pub(crate) const EVERYBODY: u16 = 10_000;

/// What tells the users of a release apart, ready for looking at requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// The gateway's own cookie.
    Own,
    /// A cookie of the service's.
    Cookie(String),
    /// A field.
    Field(HeaderName),
}

impl From<&Affinity> for Key {
    /// A name that is none of a field's tells nobody apart: then it is the own cookie.
    fn from(affinity: &Affinity) -> Self {
        match affinity {
            Affinity::OwnCookie => Self::Own,
            Affinity::Cookie(name) => Self::Cookie(name.clone()),
            Affinity::Header(name) => HeaderName::try_from(name).map_or(Self::Own, Self::Field),
        }
    }
}

/// A user, by a hash of what tells users apart: 64-bit FNV-1a (Fowler, Noll, Vo; draft-eastlake-fnv), one
/// multiplication a byte. It need not be a good one: [`User::place`] mixes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User(pub(crate) u64);

impl User {
    pub(crate) fn of(key: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(key.iter().fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// Where the user stands among [`EVERYBODY`] for a release: below its weight, the user has it. The release is
    /// mixed in by the finaliser of splitmix64 (Steele and others 2014), each of whose output bits depends on all
    /// input bits: the places of one user for two releases have nothing to do with each other.
    pub(crate) fn place(self, release: ReleaseNumber) -> u16 {
        let state = self.0 ^ release.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ (mixed >> 31);
        u16::try_from(mixed % u64::from(EVERYBODY)).expect("the rest is below 10,000")
    }
}

/// The user a request is from, and the value of the own cookie to set, if that was made for it. Removes the own
/// cookie from the request: it means nothing to the service.
pub(crate) fn recognise(
    fields: &mut HeaderMap,
    key: &Key,
    random: impl FnOnce() -> u64,
) -> (User, Option<u64>) {
    let own = cookie(fields, OWN_COOKIE);
    let services = match key {
        Key::Own => None,
        Key::Cookie(name) => cookie(fields, name),
        Key::Field(name) => fields.get(name).map(HeaderValue::as_bytes),
    };
    let services = services.filter(|value| !value.is_empty()).map(User::of);
    let ours = own.filter(|value| is_ours(value)).map(User::of);
    if own.is_some() {
        remove_own(fields);
    }
    match services.or(ours) {
        Some(user) => (user, None),
        None => {
            let fresh = random();
            (User::of(digits(fresh).as_bytes()), Some(fresh))
        }
    }
}

/// `Set-Cookie` for a value made by [`recognise`] (RFC 6265, 4.1).
pub(crate) fn set_cookie(fresh: u64) -> HeaderValue {
    let text = format!("{OWN_COOKIE}={}; Path=/; HttpOnly; SameSite=Lax", digits(fresh));
    HeaderValue::try_from(text).expect("a cookie of our own is visible ASCII")
}

fn digits(fresh: u64) -> String {
    format!("{fresh:0OWN_DIGITS$x}")
}

/// Whether a value may be one that was set here. Others' would do too, but a short one could be everybody's.
fn is_ours(value: &[u8]) -> bool {
    value.len() == OWN_DIGITS && value.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The value of the first cookie of this name (RFC 6265, 4.2.1).
pub(crate) fn cookie<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = fields.get_all(COOKIE).iter();
    lines.flat_map(|line| pairs(line.as_bytes())).find_map(|pair| value_of(pair, name))
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b';').map(<[u8]>::trim_ascii)
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

fn remove_own(fields: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = fields.get_all(COOKIE).iter().cloned().collect();
    fields.remove(COOKIE);
    for line in lines {
        let others = pairs(line.as_bytes()).filter(|pair| value_of(pair, OWN_COOKIE).is_none());
        let others = others.collect::<Vec<_>>().join(&b"; "[..]);
        if !others.is_empty() {
            fields.append(COOKIE, HeaderValue::from_bytes(&others).expect("parts of a value are a value"));
        }
    }
}

#[cfg(test)]
mod tests;
