//! What a workload is made of: one table for services, stores and externals. Which of them a component is, its
//! keys say; that they do not mix is checked later, where the message can name both.

use super::{At, DurationText, Live, Name, PathText, SchemaText, SizeText, Table, UrlText, Variable};
use crate::text::show_duration;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// The most instances of one service.
pub(crate) const INSTANCES_LIMIT: u32 = 64;
/// How long a service may take to become ready when the file does not say.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a service may drain when the file does not say.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a hook may take when the file does not say.
pub(crate) const HOOK_TIMEOUT: Duration = Duration::from_secs(300);
/// The smallest limit of memory, in bytes: no process starts in less, so a smaller one is a slip of the unit.
pub(crate) const MEMORY_LEAST: u64 = 1024 * 1024;

/// A service, a store or an external.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Component {
    /// Makes it a service: program and arguments; no shell. It runs in its artifact and must listen on `{port}`
    /// of 127.0.0.1, which is also in the variable `PORT`; the gateway's address is in `MAINSTAY_URL`. Values in braces
    /// are filled in.
    #[schemars(length(min = 1))]
    pub(crate) run: Option<At<Vec<At<String>>>>,
    /// Whether a service answers HTTP on a port. One that does not is a worker: it runs in the active stamp only.
    #[schemars(extend("default" = true))]
    pub(crate) http: Option<At<bool>>,
    /// The file or folder with the service's files, or with those of a store's hooks, relative to the workload
    /// file. A release may be given another.
    #[schemars(extend("default" = "."))]
    pub(crate) artifact: Option<At<String>>,
    /// How many instances of a service run.
    #[schemars(range(min = 1, max = INSTANCES_LIMIT), extend("default" = 1))]
    pub(crate) instances: Option<At<u32>>,
    /// Components that a service uses: services and stores are ready before it starts.
    #[schemars(extend("default" = []))]
    pub(crate) needs: Option<At<Vec<At<Name>>>>,
    /// The variable by which services that need this one, and a store's own hooks, get its address:
    /// `http://127.0.0.1:PORT` of a service, `sqlite:PATH` or `postgres://…` of a store, the URL of an external,
    /// which must have it.
    #[serde(rename = "as")]
    pub(crate) address_as: Option<At<Variable>>,
    /// Environment variables of a service, or of a store's hooks. Values in braces are filled in.
    #[schemars(extend("default" = {}))]
    pub(crate) env: Option<At<Table<Variable, At<String>>>>,
    /// When an instance of a service may get requests.
    pub(crate) ready: Option<At<Ready>>,
    /// Whether an instance of a service that runs still answers. After 3 failures in a row it gets no more requests
    /// and is started again, one instance at a time, as long as another one of the service answers; when all of them
    /// fail together none is started again and all keep serving, and `mainstay status` says so. So a service with a
    /// single instance is asked, but not started again.
    pub(crate) live: Option<At<Live>>,
    /// What an instance of a service may use.
    pub(crate) limits: Option<At<Limits>>,
    /// How long requests in flight may take to end before an instance is told to stop, and again how long it may
    /// take to stop before it is killed.
    #[schemars(extend("default" = show_duration(DRAIN_TIMEOUT)))]
    pub(crate) drain_timeout: Option<At<DurationText>>,
    /// Makes it a store of the environment's own, made when it is first needed: a file in the data folder, or a
    /// server.
    pub(crate) store: Option<At<StoreName>>,
    /// Makes it a store that exists already, at this address, such as `"postgres://user:password@host/name"`.
    pub(crate) url: Option<At<UrlText>>,
    /// What a store runs before a candidate starts; code that runs already must still work afterwards. It may be
    /// run more than once. Values in braces are filled in.
    #[schemars(extend("default" = []))]
    pub(crate) expand: Option<At<Vec<At<String>>>>,
    /// What a store runs when the stamp before is gone. It may be run more than once. Values in braces are filled
    /// in.
    #[schemars(extend("default" = []))]
    pub(crate) contract: Option<At<Vec<At<String>>>>,
    /// How long a hook of a store (`expand`, `contract`) may take.
    #[schemars(extend("default" = show_duration(HOOK_TIMEOUT)))]
    pub(crate) hook_timeout: Option<At<DurationText>>,
    /// The versions of a store's schema that this code works with: `"3"`, or `"2-3"` for 2 and 3. `expand` brings
    /// about the newest.
    pub(crate) schema: Option<At<SchemaText>>,
    /// Makes it an external: the `http` or `https` URL at which other people run it.
    pub(crate) external: Option<At<UrlText>>,
    /// A service that stands in for an external below production, with the external's name and `as`.
    pub(crate) sandbox: Option<At<Sandbox>>,
}

/// What a store of the environment's own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreName {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

/// What stands in for an external.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sandbox {
    /// Program and arguments, as `run` of a service.
    #[schemars(length(min = 1))]
    pub(crate) run: At<Vec<At<String>>>,
    /// The file or folder with its files, relative to the workload file. A release may be given another.
    #[schemars(extend("default" = "."))]
    pub(crate) artifact: Option<At<String>>,
    /// Environment variables. Values in braces are filled in.
    #[schemars(extend("default" = {}))]
    pub(crate) env: Option<At<Table<Variable, At<String>>>>,
    /// When it may get requests, with the keys of `component.<name>.ready`.
    pub(crate) ready: Option<Ready>,
    /// What it may use, with the keys of `component.<name>.limits`.
    pub(crate) limits: Option<Limits>,
}

/// When an instance may get requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ready {
    /// The path that must answer 2xx or 3xx. Without it any HTTP answer to `GET /` counts.
    pub(crate) get: Option<At<PathText>>,
    /// How long an instance may take from its start.
    #[schemars(extend("default" = show_duration(READY_TIMEOUT)))]
    pub(crate) timeout: Option<At<DurationText>>,
}

/// What an instance may use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Files and sockets open at once (RLIMIT_NOFILE). Without it the limit of the caller holds.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub(crate) open_files: Option<u64>,
    /// Resident memory of an instance with all its children, at least 1MiB. Without it there is no limit.
    pub(crate) memory: Option<At<SizeText>>,
}
