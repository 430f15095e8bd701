//! What is wrong with the releases that are wrong on purpose, so that whatever deploys the shop can be seen
//! to notice. The releases in order never come through here.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use clap::Args;

use crate::problem::Problem;
use crate::release::Release;

/// How badly the bad releases behave; each is for one of them and ignored by the others.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Failings {
    /// With release v3-errors: every how many requests to /api one is answered with 500
    #[arg(long, env = "SHOP_ERROR_EVERY", value_name = "N", default_value = "50")]
    error_every: NonZeroU64,
    /// With release v3-slow: how many milliseconds longer every request takes
    #[arg(long, env = "SHOP_SLOW_MS", value_name = "MS", default_value = "60")]
    slow_ms: u64,
    /// With release v3-slow-tail: how many milliseconds longer a few requests take
    #[arg(long, env = "SHOP_TAIL_MS", value_name = "MS", default_value = "400")]
    tail_ms: u64,
    /// With release v3-slow-tail: every how many requests to /api one takes longer
    #[arg(long, env = "SHOP_TAIL_EVERY", value_name = "N", default_value = "40")]
    tail_every: NonZeroU64,
    /// With release v3-leak: how many bytes each request to /api leaves behind
    #[arg(long, env = "SHOP_LEAK_BYTES", value_name = "BYTES", default_value = "65536")]
    leak_bytes: usize,
    /// With release v3-crash: after how many requests to /api the process aborts
    #[arg(long, env = "SHOP_CRASH_AFTER", value_name = "N", default_value = "200")]
    crash_after: NonZeroU64,
}

/// What happens to a request besides what should.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Slow(Duration),
    SlowTail { every: NonZeroU64, by: Duration },
    Errors { every: NonZeroU64 },
    Leak { bytes: usize },
    Crash { after: NonZeroU64 },
}

struct Failed {
    failing: Failing,
    /// Requests to `/api` so far.
    asked: AtomicU64,
}

impl Failings {
    /// `router` as this release serves it.
    pub(crate) fn spoil<S: Clone + Send + Sync + 'static>(
        self,
        release: Release,
        router: Router<S>,
    ) -> Router<S> {
        let Some(failing) = self.of(release) else { return router };
        let failed = Arc::new(Failed { failing, asked: AtomicU64::new(0) });
        router.layer(from_fn_with_state(failed, fail))
    }

    fn of(self, release: Release) -> Option<Failing> {
        match release {
            Release::V1
            | Release::V2
            | Release::V3Broken
            | Release::V3BrokenSchema
            | Release::V3Identical => None,
            Release::V3Slow => Some(Failing::Slow(Duration::from_millis(self.slow_ms))),
            Release::V3SlowTail => {
                Some(Failing::SlowTail { every: self.tail_every, by: Duration::from_millis(self.tail_ms) })
            }
            Release::V3Errors => Some(Failing::Errors { every: self.error_every }),
            Release::V3Leak => Some(Failing::Leak { bytes: self.leak_bytes }),
            Release::V3Crash => Some(Failing::Crash { after: self.crash_after }),
        }
    }
}

async fn fail(State(failed): State<Arc<Failed>>, request: Request, next: Next) -> Response {
    if let Failing::Slow(by) = failed.failing {
        tokio::time::sleep(by).await;
        return next.run(request).await;
    }
    if !request.uri().path().starts_with("/api/") {
        return next.run(request).await;
    }
    let number = failed.asked.fetch_add(1, Ordering::Relaxed) + 1;
    match failed.failing {
        Failing::Slow(_) => {}
        Failing::SlowTail { every, by } => {
            if number.is_multiple_of(every.get()) {
                tokio::time::sleep(by).await;
            }
        }
        Failing::Errors { every } => {
            if number.is_multiple_of(every.get()) {
                let detail = "this release fails some requests on purpose";
                return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response();
            }
        }
        // Written to, because memory that was never touched is not held.
        Failing::Leak { bytes } => drop(std::hint::black_box(vec![1_u8; bytes].leak())),
        Failing::Crash { after } => {
            if number > after.get() {
                crate::log(&format!("{after} requests were answered; this release aborts now on purpose"));
                std::process::abort();
            }
        }
    }
    next.run(request).await
}
