//! The ledger: what the client wanted to write, and what it was told of it.
//!
//! Every intent has a reference of the client's own. It is written down before the request is sent and
//! settled when the flow's last write is answered, so that nothing the service does afterwards can change
//! what was promised.

use serde::Serialize;

/// How many intents one run writes down: some 100 bytes each. A play beyond is not made and the run is
/// invalid, because writes nobody counted prove nothing.
pub const INTENTS_LIMIT: usize = 1_000_000;

/// How many findings a report names.
const FINDINGS_LIMIT: usize = 10;

/// What the client was told of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing, or nothing certain: it may have been written.
    Unknown,
    /// The last write was answered as expected.
    Acknowledged,
    /// The last write was accepted with 202, and its final answer had not come when it was no longer followed.
    Accepted,
    /// It was refused, or never sent.
    Failed,
}

/// One intended write.
#[derive(Debug)]
pub(crate) struct Intent {
    /// The index of its flow's script.
    pub(crate) flow: usize,
    pub(crate) reference: Box<str>,
    /// Where it is looked up, when that depends on values of its play.
    pub(crate) confirm: Option<Box<str>>,
    pub(crate) fate: Fate,
    settled: bool,
}

/// The intents of a run.
#[derive(Debug)]
pub(crate) struct Book {
    intents: Vec<Intent>,
    limit: usize,
}

/// The place of an intent in its book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IntentId(usize);

impl Book {
    pub(crate) fn new(limit: usize) -> Self {
        Self { intents: Vec::new(), limit }
    }

    /// Writes an intent down before its first write is sent. None when the book is full.
    pub(crate) fn intend(
        &mut self,
        flow: usize,
        reference: String,
        confirm: Option<String>,
    ) -> Option<IntentId> {
        if self.intents.len() >= self.limit {
            return None;
        }
        self.intents.push(Intent {
            flow,
            reference: reference.into(),
            confirm: confirm.map(Into::into),
            fate: Fate::Unknown,
            settled: false,
        });
        Some(IntentId(self.intents.len() - 1))
    }

    /// Writes down what became of an intent. Only the first fate counts: what a flow reads after its last
    /// write does not take an acknowledgement back.
    pub(crate) fn settle(&mut self, id: IntentId, fate: Fate) {
        let intent = &mut self.intents[id.0];
        if !intent.settled {
            intent.fate = fate;
            intent.settled = true;
        }
    }

    pub(crate) fn into_intents(self) -> Vec<Intent> {
        self.intents
    }
}

/// What is wrong with an intended write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It was acknowledged and is not there.
    Lost,
    /// It is there more than once.
    Duplicated,
    /// It could not be looked up.
    Unverified,
}

/// Acknowledged must be there exactly once, anything else at most once.
pub(crate) fn find(fate: Fate, count: u64) -> Option<Finding> {
    match (fate, count) {
        (Fate::Acknowledged | Fate::Accepted, 0) => Some(Finding::Lost),
        (Fate::Acknowledged | Fate::Accepted | Fate::Failed | Fate::Unknown, 2..) => {
            Some(Finding::Duplicated)
        }
        (Fate::Acknowledged | Fate::Accepted, 1) | (Fate::Failed | Fate::Unknown, 0 | 1) => None,
    }
}

/// What the ledger of a run says. Serialises as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LedgerReport {
    /// Writes that were intended: the sum of the next three.
    pub intended: u64,
    /// Answered as expected, or accepted.
    pub acknowledged: u64,
    /// Refused, or never sent.
    pub failed: u64,
    /// Perhaps written: the connection was cut or the answer did not come in time.
    pub unknown: u64,
    /// Of the acknowledged: accepted with 202, and not yet done when they were no longer followed.
    pub accepted: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once.
    pub duplicated: u64,
    /// Could not be looked up.
    pub unverified: u64,
    /// Found by looking up: how many unknown ones were written after all.
    pub unknown_written: u64,
    /// The first findings.
    pub samples: Vec<LedgerSample>,
}

/// One write that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LedgerSample {
    /// The flow.
    pub flow: String,
    /// The reference it was sent with.
    pub reference: String,
    /// What is wrong.
    pub finding: Finding,
    /// The count or the reason, in words.
    pub text: String,
}

impl LedgerReport {
    /// Counts one intent and what looking it up said.
    pub(crate) fn count(&mut self, flow: &str, intent: &Intent, looked_up: Result<u64, String>) {
        self.intended += 1;
        match intent.fate {
            Fate::Acknowledged => self.acknowledged += 1,
            Fate::Accepted => {
                self.acknowledged += 1;
                self.accepted += 1;
            }
            Fate::Failed => self.failed += 1,
            Fate::Unknown => self.unknown += 1,
        }
        let (finding, text) = match looked_up {
            Err(why) => (Some(Finding::Unverified), why),
            Ok(count) => {
                if intent.fate == Fate::Unknown && count > 0 {
                    self.unknown_written += 1;
                }
                (find(intent.fate, count), format!("{} and there {count} times", told(intent.fate)))
            }
        };
        let Some(finding) = finding else { return };
        match finding {
            Finding::Lost => self.lost += 1,
            Finding::Duplicated => self.duplicated += 1,
            Finding::Unverified => self.unverified += 1,
        }
        let reference = intent.reference.to_string();
        self.sample(LedgerSample { flow: flow.to_owned(), reference, finding, text });
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.intended += other.intended;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.accepted += other.accepted;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.unverified += other.unverified;
        self.unknown_written += other.unknown_written;
        for sample in other.samples {
            self.sample(sample);
        }
    }

    /// Keeps a sample; what could not be looked up makes way for what was found.
    fn sample(&mut self, sample: LedgerSample) {
        if self.samples.len() < FINDINGS_LIMIT {
            self.samples.push(sample);
        } else if sample.finding != Finding::Unverified
            && let Some(least) = self.samples.iter_mut().find(|s| s.finding == Finding::Unverified)
        {
            *least = sample;
        }
    }
}

fn told(fate: Fate) -> &'static str {
    match fate {
        Fate::Acknowledged => "acknowledged",
        Fate::Accepted => "accepted with 202",
        Fate::Failed => "failed",
        Fate::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_is_exactly_once_and_the_rest_at_most_once() {
        use Finding::{Duplicated, Lost};
        let table = [
            (Fate::Acknowledged, [Some(Lost), None, Some(Duplicated), Some(Duplicated)]),
            (Fate::Accepted, [Some(Lost), None, Some(Duplicated), Some(Duplicated)]),
            (Fate::Failed, [None, None, Some(Duplicated), Some(Duplicated)]),
            (Fate::Unknown, [None, None, Some(Duplicated), Some(Duplicated)]),
        ];
        for (fate, expected) in table {
            for (count, finding) in expected.into_iter().enumerate() {
                assert_eq!(find(fate, count as u64), finding, "{fate:?} and there {count} times");
            }
        }
    }

    #[test]
    fn a_full_book_takes_no_more_and_the_first_fate_counts() {
        let mut book = Book::new(2);
        let first = book.intend(0, "a".into(), None).unwrap();
        let second = book.intend(0, "b".into(), None).unwrap();
        assert_eq!(book.intend(0, "c".into(), None), None);
        book.settle(first, Fate::Acknowledged);
        book.settle(first, Fate::Failed);
        assert_ne!(first, second);
        let fates: Vec<Fate> = book.into_intents().iter().map(|intent| intent.fate).collect();
        assert_eq!(fates, [Fate::Acknowledged, Fate::Unknown]);
    }

    #[test]
    fn the_sum_is_what_was_intended_and_findings_come_before_failed_look_ups() {
        let mut book = Book::new(100);
        for n in 0..30 {
            let id = book.intend(0, format!("r{n}"), None).unwrap();
            book.settle(id, [Fate::Acknowledged, Fate::Failed, Fate::Unknown][n % 3]);
        }
        let (mut half, mut other) = (LedgerReport::default(), LedgerReport::default());
        for (n, intent) in book.into_intents().iter().enumerate() {
            let report = if n % 2 == 0 { &mut half } else { &mut other };
            let looked_up = if n < 20 { Err("no answer".to_owned()) } else { Ok(u64::from(n == 29) * 2) };
            report.count("checkout", intent, looked_up);
        }
        half.merge(other);
        assert_eq!((half.intended, half.acknowledged, half.failed, half.unknown), (30, 10, 10, 10));
        assert_eq!((half.lost, half.duplicated, half.unverified, half.unknown_written), (3, 1, 20, 1));
        assert_eq!(half.samples.len(), FINDINGS_LIMIT);
        assert_eq!(half.samples.iter().filter(|s| s.finding == Finding::Lost).count(), 3);
        assert!(half.samples.iter().any(|s| s.reference == "r29" && s.finding == Finding::Duplicated));
    }
}
