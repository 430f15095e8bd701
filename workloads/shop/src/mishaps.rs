//! Writes that go wrong on purpose, at whatever release: so that whatever calls a service can be seen to cope when
//! it refuses, fails, answers wrongly or dies half-way.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use clap::Args;

use crate::problem::Problem;

/// How long a process that dies after its answer lives on, so that the answer gets out.
const LAST_BREATH: Duration = Duration::from_millis(50);

/// What goes wrong with writes, and how often.
#[derive(Args, Clone, Debug)]
pub(crate) struct Mishaps {
    /// What goes wrong on purpose with writes, as in refuse:3,undo-die; see the README
    #[arg(long, env = "SHOP_MISHAPS", value_name = "LIST", default_value = "")]
    mishaps: List,
}

/// Mishaps with commas between; an empty text is none.
#[derive(Clone, Debug)]
struct List(Vec<Mishap>);

impl FromStr for List {
    type Err = NoMishap;

    fn from_str(text: &str) -> Result<Self, NoMishap> {
        let mishaps = text.split(',').filter(|_| !text.is_empty()).map(str::parse);
        mishaps.collect::<Result<_, _>>().map(Self)
    }
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mishap {
    kind: Kind,
    /// With what undoes something, instead of with what does.
    undoing: bool,
    /// With every how many of those requests.
    every: NonZeroU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing is done, and the answer is a refusal.
    Refuse,
    /// Nothing is done, and the answer is 500.
    Fail,
    /// It is done, and the answer is 500 all the same.
    Lie,
    /// It is done, and the process aborts without an answer.
    Die,
    /// It is done and answered, then the process aborts.
    AnswerAndDie,
}

impl Kind {
    const ALL: [(&'static str, Self); 5] = [
        ("refuse", Self::Refuse),
        ("fail", Self::Fail),
        ("lie", Self::Lie),
        ("die", Self::Die),
        ("answer-and-die", Self::AnswerAndDie),
    ];
}

/// A text that names no mishap.
#[derive(Debug, PartialEq, Eq)]
struct NoMishap;

impl fmt::Display for NoMishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Kind::ALL.map(|(name, _)| name).join(", ");
        write!(f, "it is one of {names}, perhaps with `undo-` before and `:N` behind, N from 1")
    }
}

impl std::error::Error for NoMishap {}

impl FromStr for Mishap {
    type Err = NoMishap;

    fn from_str(text: &str) -> Result<Self, NoMishap> {
        let (name, every) = text.split_once(':').unwrap_or((text, "1"));
        let (undoing, name) = name.strip_prefix("undo-").map_or((false, name), |name| (true, name));
        let kind = Kind::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        Ok(Self { kind: kind.ok_or(NoMishap)?, undoing, every: every.parse().map_err(|_| NoMishap)? })
    }
}

struct Counted {
    /// Each with the requests so far that it is about.
    mishaps: Vec<(Mishap, AtomicU64)>,
    refusal: StatusCode,
}

impl Mishaps {
    /// `router` with what goes wrong; a refusal is answered with `refusal`.
    pub(crate) fn befall<S: Clone + Send + Sync + 'static>(
        self,
        refusal: StatusCode,
        router: Router<S>,
    ) -> Router<S> {
        let List(mishaps) = self.mishaps;
        if mishaps.is_empty() {
            return router;
        }
        let mishaps = mishaps.into_iter().map(|mishap| (mishap, AtomicU64::new(0))).collect();
        router.layer(from_fn_with_state(Arc::new(Counted { mishaps, refusal }), befall))
    }
}

impl Counted {
    /// What happens to this request: the first that is due. Every one it is about counts it.
    fn due(&self, undoing: bool) -> Option<Kind> {
        let of_this = self.mishaps.iter().filter(|(mishap, _)| mishap.undoing == undoing);
        let due = of_this.filter(|(mishap, asked)| {
            (asked.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(mishap.every.get())
        });
        due.map(|(mishap, _)| mishap.kind).collect::<Vec<_>>().first().copied()
    }
}

async fn befall(State(counted): State<Arc<Counted>>, request: Request, next: Next) -> Response {
    if [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
        return next.run(request).await;
    }
    let undoing = request.method() == Method::DELETE || request.uri().path().ends_with("/refund");
    let problem = |status, detail: &str| Problem::new(status, detail).into_response();
    match counted.due(undoing) {
        None => next.run(request).await,
        Some(Kind::Refuse) => problem(counted.refusal, "refused on purpose; nothing was done"),
        Some(Kind::Fail) => problem(StatusCode::INTERNAL_SERVER_ERROR, "failed on purpose; nothing was done"),
        Some(Kind::Lie) => {
            drop(next.run(request).await);
            problem(StatusCode::INTERNAL_SERVER_ERROR, "failed on purpose, after it was done")
        }
        Some(Kind::Die) => {
            drop(next.run(request).await);
            crate::log("this process aborts now on purpose, without an answer");
            std::process::abort()
        }
        Some(Kind::AnswerAndDie) => {
            let answer = next.run(request).await;
            tokio::spawn(async {
                tokio::time::sleep(LAST_BREATH).await;
                crate::log("this process aborts now on purpose, after its answer");
                std::process::abort();
            });
            answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mishap_is_a_kind_perhaps_of_undoing_and_how_often() {
        let mishap =
            |kind, undoing, every| Ok(Mishap { kind, undoing, every: NonZeroU64::new(every).unwrap() });
        let table = [
            ("refuse", mishap(Kind::Refuse, false, 1)),
            ("fail:3", mishap(Kind::Fail, false, 3)),
            ("undo-lie:2", mishap(Kind::Lie, true, 2)),
            ("die:40", mishap(Kind::Die, false, 40)),
            ("undo-answer-and-die", mishap(Kind::AnswerAndDie, true, 1)),
            ("fail:0", Err(NoMishap)),
            ("fail:", Err(NoMishap)),
            ("fails", Err(NoMishap)),
            ("", Err(NoMishap)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Mishap>(), expected, "{text}");
        }
    }

    #[test]
    fn each_counts_the_requests_it_is_about() {
        let mishaps =
            ["fail:2", "refuse:3", "undo-die"].map(|text| (text.parse().unwrap(), AtomicU64::new(0)));
        let counted = Counted { mishaps: mishaps.into(), refusal: StatusCode::CONFLICT };
        let due: Vec<_> = (0..6).map(|_| counted.due(false)).collect();
        let (fail, refuse) = (Some(Kind::Fail), Some(Kind::Refuse));
        assert_eq!(due, [None, fail, refuse, fail, None, fail]);
        assert_eq!(counted.due(true), Some(Kind::Die));
    }
}
