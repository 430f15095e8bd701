//! A job as others see it: its name, its state, its answer.

use crate::hex::hex;
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
pub use store::journal::{JobId, JobState};

/// Fields of a request or an answer, in order, with repetitions. Names are lower-case.
pub type Fields = Vec<(Bytes, Bytes)>;

/// What makes the name of a job hard to guess: 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 16]);

impl Tag {
    /// Whether both are the same, in a time that does not tell how much of them is.
    pub fn matches(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(other.0).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

/// What a client calls a job: its number and its tag, written `17-0123456789abcdef0123456789abcdef`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobName {
    /// The number of its row.
    pub id: JobId,
    /// Its tag.
    pub tag: Tag,
}

/// A text that is not the name of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job is named by its number, a dash and 32 hexadecimal digits")]
pub struct NotAJobName;

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.id.0, hex(&self.tag.0))
    }
}

impl FromStr for JobName {
    type Err = NotAJobName;

    fn from_str(text: &str) -> Result<Self, NotAJobName> {
        let (id, tag) = text.split_once('-').ok_or(NotAJobName)?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        // One way to write each, so that a job has one address.
        if !digits(id) || id.starts_with('0') || tag.len() != 32 || !hex(tag) {
            return Err(NotAJobName);
        }
        let id = id.parse().map_err(|_| NotAJobName)?;
        let tag = u128::from_str_radix(tag, 16).map_err(|_| NotAJobName)?;
        Ok(Self { id: JobId(id), tag: Tag(tag.to_be_bytes()) })
    }
}

/// What is known of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// Its name.
    pub name: JobName,
    /// Where it stands.
    pub state: JobState,
    /// The route that took it, such as `POST /api/orders`.
    pub route: Arc<str>,
    /// When it was accepted, in Unix milliseconds.
    pub created_ms: i64,
    /// When it was, or is, to be delivered, or tried again, in Unix milliseconds.
    pub due_ms: i64,
    /// When its last outcome was recorded. None: it waits, or is under way.
    pub finished_ms: Option<i64>,
    /// How often its delivery has begun, since it was accepted or last retried by an operator.
    pub attempts: u32,
}

impl JobView {
    /// Whether nothing more happens to it by itself: the job resource shows its answer.
    pub fn is_settled(&self) -> bool {
        !self.state.is_pending()
    }
}

/// The word for a state, the same in the CLI, the API and the documents.
pub fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Dispatching => "dispatching",
        JobState::Done => "delivered",
        JobState::Rejected => "rejected",
        JobState::Dead => "dead",
        JobState::Unknown => "unknown",
        JobState::Cancelled => "cancelled",
        JobState::Dropped => "dropped",
    }
}

/// The state of this name.
pub fn state_named(name: &str) -> Option<JobState> {
    JobState::ALL.into_iter().find(|state| state_name(*state) == name)
}

/// What an upstream answered, as it is kept and replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, 100 to 599.
    pub status: u16,
    /// Its fields, without those of one hop.
    pub fields: Fields,
    /// Its body.
    pub body: Bytes,
    /// Whether the body was longer than what is kept.
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_in_one_way() {
        let name = JobName { id: JobId(17), tag: Tag([0xab; 16]) };
        assert_eq!(name.to_string(), format!("17-{}", "ab".repeat(16)));
        assert_eq!(name.to_string().parse(), Ok(name));
        for bad in ["", "17", "-", "017-", "x-00", "17-AB", &name.to_string().to_uppercase()] {
            assert_eq!(bad.parse::<JobName>(), Err(NotAJobName), "{bad}");
        }
        for bad in [
            format!("0{name}"),
            format!("{name}0"),
            format!("+{name}"),
            format!("99999999999999999999{name}"),
        ] {
            assert_eq!(bad.parse::<JobName>(), Err(NotAJobName), "{bad}");
        }
    }

    #[test]
    fn tags_are_compared_whole() {
        let tag = Tag([7; 16]);
        assert!(tag.matches(&Tag([7; 16])));
        for place in 0..16 {
            let mut other = tag;
            other.0[place] ^= 0x80;
            assert!(!tag.matches(&other));
        }
    }
}
