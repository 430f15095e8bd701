//! Names and numbers, each a type of its own so that one cannot be passed for another.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest name, in bytes: names become folder names and DNS labels (RFC 1035, 2.3.4).
pub const NAME_LIMIT: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`NAME_LIMIT`] bytes.
    #[error("a name has at most {NAME_LIMIT} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside lower-case letters, digits and dashes, or a first character that is no letter.
    #[error("a name is lower-case letters, digits and dashes and begins with a letter: `{0}` is not")]
    Characters(String),
}

fn check(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let first = *bytes.first().ok_or(NameError::Empty)?;
    if bytes.len() > NAME_LIMIT {
        return Err(NameError::TooLong(bytes.len()));
    }
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    if !first.is_ascii_lowercase() || !bytes.iter().all(inner) {
        return Err(NameError::Characters(text.to_owned()));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks `text` against the rule for names.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text).map(|()| Self(text))
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a workload.
    WorkloadName
);
name!(
    /// The name of an environment.
    EnvironmentName
);
name!(
    /// The name of a component.
    ComponentName
);
name!(
    /// The name of a flow.
    FlowName
);
name!(
    /// The name of a saga.
    SagaName
);

macro_rules! number {
    ($(#[$doc:meta])* $type:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// Counts the releases of one environment, from 1.
    ReleaseNumber,
    "r"
);
number!(
    /// The deployment of a release in its environment; it has the number of its release.
    StampId,
    "s"
);
number!(
    /// Rises by one with every agent of an environment; what an older agent still sends is refused by it.
    FenceToken,
    "t"
);

impl ReleaseNumber {
    /// The stamp of this release: every release has exactly one.
    pub fn stamp(self) -> StampId {
        StampId(self.0)
    }
}

impl StampId {
    /// What belongs to no release: stores, which outlive them all.
    pub const STORES: Self = Self(0);

    /// The release this is the deployment of.
    pub fn release(self) -> ReleaseNumber {
        ReleaseNumber(self.0)
    }
}

/// One running copy of a service in a stamp: `s4-api-0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId {
    /// The stamp it belongs to.
    pub stamp: StampId,
    /// The component it is a copy of.
    pub component: ComponentName,
    /// Which copy, from 0.
    pub index: u32,
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.stamp, self.component, self.index)
    }
}

/// A SHA-256 digest, written `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not `sha256:` and 64 hexadecimal digits")]
pub struct DigestError(String);

impl Digest {
    /// The digest whose 32 bytes are given.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        use std::fmt::Write as _;
        let mut text = String::from("sha256:");
        for byte in bytes {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text)
    }

    /// The 64 hexadecimal digits, as used for folder names.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text))
        } else {
            Err(DigestError(text))
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_letters_digits_and_dashes() {
        for good in ["a", "api", "pr-42", "a1-", &"x".repeat(63)] {
            assert_eq!(ComponentName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "1a", "-a", "API", "a_b", "a.b", "a/b", "ä", &"x".repeat(64)] {
            assert!(ComponentName::new(bad).is_err(), "{bad:?} was taken for a name");
        }
    }

    #[test]
    fn a_digest_is_sixty_four_hexadecimal_digits() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.short(), "abababababab");
        assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        for bad in ["", "sha256:", "sha256:zz", &format!("sha512:{}", "a".repeat(64))] {
            assert!(Digest::try_from(bad.to_owned()).is_err());
        }
    }
}
