//! What became of a request.

use serde::Serialize;

/// How many distinct failures a report keeps.
pub const SAMPLES_LIMIT: usize = 10;

/// How much of an answer's body a report keeps, in characters.
pub const SNIPPET_LIMIT: usize = 200;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A complete answer that is as expected.
    Ok,
    /// A complete answer with another status.
    UnexpectedStatus,
    /// No connection; the request was never sent.
    ConnectFailed,
    /// The connection ended after the request may have been sent and before its answer was complete.
    Cut,
    /// No complete answer in time.
    Timeout,
    /// The status is as expected, the body is not: too large, no JSON, or a value to save is missing.
    BadBody,
    /// The values of the play make no request that can be sent.
    Unsendable,
    /// A write that was accepted with 202 and was not done while it was followed. No failure: what was promised is
    /// looked up in the end.
    Pending,
    /// This machine gave no socket. That is the tester's own trouble: it is no failure of the service, and
    /// the run is invalid.
    NoSocket,
}

/// How many requests had which outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[expect(missing_docs, reason = "the fields are the outcomes, documented there")]
pub struct Outcomes {
    pub ok: u64,
    pub unexpected_status: u64,
    pub connect_failed: u64,
    pub cut: u64,
    pub timeout: u64,
    pub bad_body: u64,
    pub unsendable: u64,
    pub pending: u64,
    pub no_socket: u64,
}

impl Outcomes {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Ok => &mut self.ok,
            Outcome::UnexpectedStatus => &mut self.unexpected_status,
            Outcome::ConnectFailed => &mut self.connect_failed,
            Outcome::Cut => &mut self.cut,
            Outcome::Timeout => &mut self.timeout,
            Outcome::BadBody => &mut self.bad_body,
            Outcome::Unsendable => &mut self.unsendable,
            Outcome::Pending => &mut self.pending,
            Outcome::NoSocket => &mut self.no_socket,
        } += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.unexpected_status += other.unexpected_status;
        self.connect_failed += other.connect_failed;
        self.cut += other.cut;
        self.timeout += other.timeout;
        self.bad_body += other.bad_body;
        self.unsendable += other.unsendable;
        self.pending += other.pending;
        self.no_socket += other.no_socket;
    }

    /// The requests that say something of the service: all but those for which this machine had no socket.
    pub fn requests(&self) -> u64 {
        self.ok + self.pending + self.failed()
    }

    /// The requests that were not as expected; what is pending may yet be.
    pub fn failed(&self) -> u64 {
        self.unexpected_status
            + self.connect_failed
            + self.cut
            + self.timeout
            + self.bad_body
            + self.unsendable
    }

    /// The failures by kind, in words, those that happened only.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("unexpected status", self.unexpected_status),
            ("connect failed", self.connect_failed),
            ("cut", self.cut),
            ("timeout", self.timeout),
            ("bad body", self.bad_body),
            ("unsendable", self.unsendable),
            ("no socket", self.no_socket),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
    }
}

/// One of the first distinct failures of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureSample {
    /// The flow.
    pub flow: String,
    /// The step: its number from 1, its method and its path as the workload file has it.
    pub step: String,
    /// What became of the request.
    pub outcome: Outcome,
    /// The status, when there was an answer.
    pub status: Option<u16>,
    /// What happened, in words.
    pub problem: String,
    /// The beginning of the answer's body, at most [`SNIPPET_LIMIT`] characters.
    pub snippet: String,
    /// How often it happened.
    pub times: u64,
}

/// The beginning of `body` as one line of text.
pub(crate) fn snippet(body: &[u8]) -> String {
    // A character has at most four bytes, so this much holds every snippet.
    let start = &body[..body.len().min(SNIPPET_LIMIT * 4)];
    let text = String::from_utf8_lossy(start);
    text.chars().take(SNIPPET_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_a_request_and_a_missing_socket_is_neither() {
        let mut outcomes = Outcomes::default();
        let all = [
            Outcome::Ok,
            Outcome::UnexpectedStatus,
            Outcome::ConnectFailed,
            Outcome::Cut,
            Outcome::Timeout,
            Outcome::BadBody,
            Outcome::Unsendable,
            Outcome::NoSocket,
        ];
        for outcome in all {
            outcomes.count(outcome);
        }
        assert_eq!((outcomes.requests(), outcomes.failed()), (7, 6));
        assert_eq!(outcomes.failures().map(|(_, count)| count).sum::<u64>(), 7);
        let mut twice = outcomes;
        twice.add(&outcomes);
        assert_eq!((twice.requests(), twice.failed(), twice.no_socket), (14, 12, 2));
    }

    #[test]
    fn a_snippet_is_one_short_line() {
        assert_eq!(snippet(b"a\r\nb\x00c"), "a  b c");
        assert_eq!(snippet("é".repeat(500).as_bytes()), "é".repeat(SNIPPET_LIMIT));
        assert_eq!(snippet(&[0xff, b'x']), "\u{fffd}x");
    }
}
