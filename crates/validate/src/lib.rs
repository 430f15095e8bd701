//! Plays a workload's flows against a running service and says, with numbers, whether it holds.
//!
//! Lives here: the player of flows, the smoke test, the open-model load engine, the client-side ledger of
//! writes, and the judgement of what they saw. The engine has an HTTP client of its own: a tester that
//! shares code with what it tests shares its bugs.
//!
//! Never here: the gateway's code, drivers, files, printing. Reports and progress are values; whoever
//! calls prints them.

mod target;
pub use target::Target;

mod smoke;
pub use smoke::{SmokeFlow, SmokeOptions, SmokeReport, SmokeStep, smoke};

mod load;
pub use load::{IN_FLIGHT_LIMIT, LAG_BUDGET, LoadOptions, MAX_CONNECTIONS, load};

mod plan;
pub use plan::{Plan, PlanError, RATE_LIMIT};

mod report;
pub use report::{FlowReport, LoadReport, Phase, Progress, Queued, Skipped, StepReport, Window};

mod judge;

mod text;

mod ledger;
pub use ledger::{Finding, INTENTS_LIMIT, LedgerReport, LedgerSample};

mod confirm;
pub use confirm::{CONFIRM_ATTEMPTS, CONFIRM_CONCURRENCY, CONFIRM_DRAIN, CONFIRM_GIVE_UP};

mod outcome;
pub use outcome::{FailureSample, Outcome, Outcomes, SAMPLES_LIMIT, SNIPPET_LIMIT};

mod latency;
pub use latency::Latency;

mod tally;

mod engine;
pub use engine::STEP_TIMEOUT;

mod follow;
pub use follow::{FOLLOW_CONNECTIONS, FOLLOW_LIMIT};

mod script;

mod values;
pub use values::USERS;

mod random;

mod client;
pub use client::{ANSWER_LIMIT, IDLE_LIMIT};

mod connection;

mod pacer;

mod steal;
