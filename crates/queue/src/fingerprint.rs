//! What tells requests apart: hashes of keys, requests, credentials and values of order.

use crate::hex::hex;
use crate::keys::KeyHash;
use crate::submission::{Submission, Traffic};
use sha2::{Digest as _, Sha256};

/// SHA-256 over parts, each with its length before it, so that no two lists of parts run together.
struct Hash(Sha256);

impl Hash {
    /// `purpose` keeps hashes of one kind from being taken for those of another.
    fn of(purpose: &str) -> Self {
        Self(Sha256::new()).part(purpose.as_bytes())
    }

    fn part(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
        self
    }

    fn end(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    fn short(self) -> u64 {
        let whole = self.end();
        u64::from_be_bytes(*whole.first_chunk().expect("SHA-256 has 32 bytes"))
    }
}

/// What a request with the same key must have in common with the first one.
pub(crate) fn fingerprint(submission: &Submission) -> [u8; 32] {
    let (path, query) = match submission.path_and_query.split_once('?') {
        Some((path, query)) => (path, query),
        None => (submission.path_and_query.as_str(), ""),
    };
    let body: [u8; 32] = Sha256::digest(&submission.body).into();
    Hash::of("request")
        .part(submission.method.as_str().as_bytes())
        .part(path.as_bytes())
        .part(query.as_bytes())
        .part(&body)
        .part(submission.principal.as_deref().unwrap_or_default())
        .end()
}

/// Of an `Idempotency-Key` alone.
pub(crate) fn key_alone(key: &str) -> u64 {
    Hash::of("key").part(key.as_bytes()).short()
}

/// Of a key where it counts: in its route, of its principal where the route names one. A preview's is none of users', or
/// the candidate that it is about would not be asked.
pub(crate) fn key(traffic: Traffic, route: &str, principal: Option<&[u8]>, key: &str) -> KeyHash {
    let purpose = match traffic {
        Traffic::Users => "scope",
        Traffic::Preview => "scope of a preview",
    };
    let scope = Hash::of(purpose).part(route.as_bytes());
    let scope = match principal {
        Some(principal) => scope.part(principal),
        None => scope,
    };
    KeyHash { key: key_alone(key), scope: scope.short() }
}

/// Of the credentials that a request came with.
pub(crate) fn credentials(credentials: &[u8]) -> [u8; 16] {
    let whole = Hash::of("credentials").part(credentials).end();
    *whole.first_chunk().expect("SHA-256 has 32 bytes")
}

/// Of a value by which deliveries of a route are ordered. Never 0, which stands for no order.
pub(crate) fn order(traffic: Traffic, route: &str, value: &str) -> u64 {
    let purpose = match traffic {
        Traffic::Users => "order",
        Traffic::Preview => "order of a preview",
    };
    Hash::of(purpose).part(route.as_bytes()).part(value.as_bytes()).short().max(1)
}

/// The `Idempotency-Key` of one call of a saga: always the same for the same step, direction and run.
pub(crate) fn step_key(job_key: &str, generation: u32, step: u16, undo: bool) -> String {
    let whole = Hash::of("step")
        .part(job_key.as_bytes())
        .part(&generation.to_be_bytes())
        .part(&step.to_be_bytes())
        .part(&[u8::from(undo)])
        .end();
    hex(&whole[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use model::flow::Method;
    use std::sync::Arc;

    fn submission() -> Submission {
        Submission {
            route: Arc::from("POST /a"),
            settings: Arc::default(),
            saga: None,
            method: Method::Post,
            path_and_query: "/a?b=c".into(),
            fields: Vec::new(),
            body: Bytes::from_static(b"{}"),
            traffic: Traffic::Users,
            user: None,
            patience: std::time::Duration::ZERO,
            carries: false,
            key: None,
            principal: None,
            credentials: Bytes::new(),
            deliver_after: None,
        }
    }

    #[test]
    fn a_fingerprint_is_of_method_path_query_body_and_principal() {
        let first = fingerprint(&submission());
        let others: [fn(&mut Submission); 5] = [
            |s| s.method = Method::Put,
            |s| s.path_and_query = "/a?b=d".into(),
            |s| s.path_and_query = "/a".into(),
            |s| s.body = Bytes::from_static(b"{ }"),
            |s| s.principal = Some(Bytes::from_static(b"x")),
        ];
        for change in others {
            let mut other = submission();
            change(&mut other);
            assert_ne!(fingerprint(&other), first, "{other:?}");
        }
        let same: [fn(&mut Submission); 3] = [
            |s| s.fields.push((Bytes::from_static(b"a"), Bytes::from_static(b"b"))),
            |s| s.credentials = Bytes::from_static(b"x"),
            |s| s.user = Some(1),
        ];
        for change in same {
            let mut other = submission();
            change(&mut other);
            assert_eq!(fingerprint(&other), first, "{other:?}");
        }
    }

    #[test]
    fn keys_are_of_their_route_and_principal() {
        let first = key(Traffic::Users, "POST /a", Some(b"ann"), "k");
        assert_eq!(first, key(Traffic::Users, "POST /a", Some(b"ann"), "k"));
        assert_eq!(first.key, key_alone("k"));
        for other in [
            key(Traffic::Users, "POST /b", Some(b"ann"), "k"),
            key(Traffic::Users, "POST /a", Some(b"bob"), "k"),
            key(Traffic::Users, "POST /a", Some(b""), "k"),
            key(Traffic::Users, "POST /a", None, "k"),
            key(Traffic::Users, "POST /a", Some(b"ann"), "l"),
            key(Traffic::Preview, "POST /a", Some(b"ann"), "k"),
        ] {
            assert_ne!(first, other);
        }
        let users = |principal| key(Traffic::Users, "a", principal, "k");
        assert_ne!(users(Some(b"")), users(None), "an empty principal is one");
    }

    #[test]
    fn each_call_of_a_saga_has_its_own_key() {
        let mut all = std::collections::BTreeSet::new();
        for generation in 0..3 {
            for step in 0..3 {
                for undo in [false, true] {
                    all.insert(step_key("k", generation, step, undo));
                }
            }
        }
        assert_eq!(all.len(), 18);
        assert_eq!(step_key("k", 1, 2, true), step_key("k", 1, 2, true));
    }
}
