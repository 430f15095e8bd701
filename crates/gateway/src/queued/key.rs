//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07), and whose key it is.

use crate::affinity::cookie;
use crate::fault::{Fault, Refusal};
use crate::limits::TOKEN_BYTES;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use model::queue::{KEY_LIMIT, Principal};

/// The field.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key of a request: in quotes, as the draft has it (a string of RFC 9651, 3.3.3), or bare, as it is widely sent.
/// `"a"` and `a` are the same key.
///
/// # Errors
/// [`Fault::KeyMalformed`]: empty, longer than [`KEY_LIMIT`], given twice, or neither of the two forms.
pub(crate) fn key(fields: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut lines = fields.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let bad = |detail: String| Refusal::new(Fault::KeyMalformed, detail);
    if lines.next().is_some() {
        return Err(bad("a request has one Idempotency-Key, and this one has several".to_owned()));
    }
    let text = line.as_bytes().trim_ascii();
    let key = if text.first() == Some(&b'"') { string(text) } else { bare(text) };
    let Some(key) = key else {
        let seen = String::from_utf8_lossy(&text[..text.len().min(KEY_LIMIT)]).into_owned();
        let hint = "it is a text in quotes, or visible ASCII characters without quotes";
        return Err(bad(format!("`{seen}` is no Idempotency-Key: {hint}")));
    };
    match key.len() {
        0 => Err(bad("the Idempotency-Key is empty".to_owned())),
        length if length > KEY_LIMIT => {
            Err(bad(format!("the Idempotency-Key has {length} bytes, and at most {KEY_LIMIT} are taken")))
        }
        _ => Ok(Some(key)),
    }
}

fn bare(text: &[u8]) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    text.iter().all(plain).then(|| String::from_utf8_lossy(text).into_owned())
}

/// An item that is a string (RFC 9651, 4.2.3). The draft defines no parameters, so that any are ignored.
fn string(text: &[u8]) -> Option<String> {
    let (value, rest) = quoted(text)?;
    parameters(rest).then_some(value)
}

/// A string (RFC 9651, 4.2.5), and what follows it.
fn quoted(text: &[u8]) -> Option<(String, &[u8])> {
    let mut rest = text.strip_prefix(b"\"")?;
    let mut value = String::with_capacity(rest.len());
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        let byte = match byte {
            b'"' => return Some((value, rest)),
            b'\\' => {
                let (escaped, after) = rest.split_first().filter(|(byte, _)| matches!(byte, b'"' | b'\\'))?;
                rest = after;
                escaped
            }
            b' '..=b'~' => byte,
            _ => return None,
        };
        value.push(char::from(*byte));
    }
}

/// Whether this is any number of parameters (RFC 9651, 4.2.3.2). Of values other than strings only the characters are
/// looked at: nothing is made of them.
fn parameters(mut rest: &[u8]) -> bool {
    let end_of =
        |text: &[u8], part: fn(&u8) -> bool| text.iter().position(|byte| !part(byte)).unwrap_or(text.len());
    while let Some(parameter) = rest.strip_prefix(b";") {
        let parameter = parameter.trim_ascii_start();
        if !parameter.first().is_some_and(|first| first.is_ascii_lowercase() || *first == b'*') {
            return false;
        }
        let name = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*')
        };
        rest = &parameter[end_of(parameter, name)..];
        let Some(value) = rest.strip_prefix(b"=") else { continue };
        rest = match value.first() {
            Some(b'"') => match quoted(value) {
                Some((_, rest)) => rest,
                None => return false,
            },
            _ => {
                &value[end_of(value, |byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b'"' | b','))..]
            }
        };
        if rest.len() == value.len() {
            return false;
        }
    }
    rest.is_empty()
}

/// Whose a request is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whose {
    /// What the route names: keys are told apart by it. Where the request does not have it, its credentials are what
    /// tells, so that two users whose tokens cannot be read do not share keys. None: the route names nothing.
    pub(crate) principal: Option<Vec<u8>>,
    /// `Authorization` as it came. Empty: everybody's.
    pub(crate) credentials: Vec<u8>,
}

impl Whose {
    /// By what the route names.
    pub(crate) fn read(fields: &HeaderMap, named: Option<&Principal>) -> Self {
        let credentials = fields.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let principal = named.map(|named| {
            let found = match named {
                Principal::Header(name) => fields.get(name).map(|value| value.as_bytes().to_vec()),
                Principal::Cookie(name) => cookie(fields, name).map(<[u8]>::to_vec),
                Principal::Claim(name) => claim(credentials, name),
            };
            found.filter(|found| !found.is_empty()).unwrap_or_else(|| credentials.to_vec())
        });
        Self { principal, credentials: credentials.to_vec() }
    }
}

/// A claim of the token in `Bearer TOKEN` (RFC 7519; RFC 7515, 3.1: base64url without padding). Nothing is verified:
/// who has a token with a wrong signature gets no further than the service, and shares keys with the one it claims to
/// be. Tokens of more than [`TOKEN_BYTES`] are not read.
fn claim(credentials: &[u8], name: &str) -> Option<Vec<u8>> {
    let (scheme, token) = credentials.split_at_checked(7).filter(|_| credentials.len() <= TOKEN_BYTES)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let payload = token.trim_ascii().split(|b| *b == b'.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let claim = claims.get(name).filter(|claim| !claim.is_null())?;
    let text = claim.as_str().map_or_else(|| claim.to_string(), str::to_owned);
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        fields
    }

    #[test]
    fn keys_in_quotes_and_bare() {
        let longest = "k".repeat(KEY_LIMIT);
        let quoted = format!("\"{longest}\"");
        for (line, expected) in [
            ("8e03978e-40d5-43dc-bc93-6894a57f9324", "8e03978e-40d5-43dc-bc93-6894a57f9324"),
            ("\"8e03978e-40d5-43dc-bc93-6894a57f9324\"", "8e03978e-40d5-43dc-bc93-6894a57f9324"),
            ("\"a b\"", "a b"),
            ("\"a\\\"b\\\\\"", "a\"b\\"),
            ("\"a\";b=c", "a"),
            ("\"a\";b;c=\"d;\\\"\"; e=?1;*f=:YQ==:", "a"),
            ("a,b;c=d", "a,b;c=d"),
            (" a ", "a"),
            (&longest, &longest),
            (&quoted, &longest),
        ] {
            let found = key(&with(&IDEMPOTENCY_KEY, &[line])).unwrap();
            assert_eq!(found.as_deref(), Some(expected), "{line}");
        }
        assert_eq!(key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn what_is_no_key() {
        let long = "k".repeat(KEY_LIMIT + 1);
        let quoted = format!("\"{long}\"");
        for lines in [
            &[""][..],
            &["\"\""],
            &["\""],
            &["\"a"],
            &["a\""],
            &["a\"b"],
            &["\"a\"b\""],
            &["\"a\\n\""],
            &["\"a\\\""],
            &["\"a\" ;b=c"],
            &["\"a\";"],
            &["\"a\";B=c"],
            &["\"a\";b="],
            &["\"a\";b=\"c"],
            &["\"a\", \"b\""],
            &["a b"],
            &["a\tb"],
            &["\"ä\""],
            &["ä"],
            &["a", "a"],
            &[&long],
            &[&quoted],
        ] {
            let refused = key(&with(&IDEMPOTENCY_KEY, lines)).unwrap_err();
            assert_eq!(refused.fault, Fault::KeyMalformed, "{lines:?}");
            assert!(refused.detail.len() < 2 * KEY_LIMIT, "{}", refused.detail);
        }
    }

    fn token(payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn claims_outlive_their_token() {
        let sub = Principal::Claim("sub".into());
        let of = |line: &str| Whose::read(&with(&AUTHORIZATION, &[line]), Some(&sub)).principal;
        let (first, second) = (token(r#"{"sub":"jo","iat":1}"#), token(r#"{"sub":"jo","iat":2}"#));
        assert_ne!(first, second);
        for line in [format!("Bearer {first}"), format!("bearer  {second}")] {
            assert_eq!(of(&line).as_deref(), Some(&b"jo"[..]), "{line}");
        }
        assert_eq!(of(&format!("Bearer {}", token(r#"{"sub":17}"#))).as_deref(), Some(&b"17"[..]));
        for line in [
            "Basic am86c2VjcmV0".to_owned(),
            "Bearer".to_owned(),
            "Bearer abc".to_owned(),
            "Bearer a.!.c".to_owned(),
            format!("Bearer {}", token("[1]")),
            format!("Bearer {}", token(r#"{"sub":null}"#)),
            format!("Bearer {}", token(r#"{"sub":""}"#)),
            format!("Bearer {}", token(r#"{"other":"jo"}"#)),
            format!("Bearer {}{}", token(r#"{"sub":"jo"}"#), "x".repeat(TOKEN_BYTES)),
        ] {
            assert_eq!(of(&line), Some(line.clone().into_bytes()), "{line}");
        }
    }

    #[test]
    fn fields_and_cookies_say_whose_it_is() {
        let mut fields = with(&AUTHORIZATION, &["Bearer one"]);
        fields.append("x-account", HeaderValue::from_static("seven"));
        fields.append("cookie", HeaderValue::from_static("a=b; session=s1"));
        let of = |named: Option<Principal>| Whose::read(&fields, named.as_ref());
        assert_eq!(of(None), Whose { principal: None, credentials: b"Bearer one".to_vec() });
        for (named, expected) in [
            (Principal::Header("x-account".into()), Some(&b"seven"[..])),
            (Principal::Header("x-other".into()), Some(b"Bearer one")),
            (Principal::Cookie("session".into()), Some(b"s1")),
            (Principal::Cookie("sess".into()), Some(b"Bearer one")),
        ] {
            let found = of(Some(named.clone()));
            assert_eq!(found.principal.as_deref(), expected, "{named:?}");
            assert_eq!(found.credentials, b"Bearer one", "{named:?}");
        }
    }
}
