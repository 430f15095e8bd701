//! Whether the code of a release can run on the schemas there are, by what releases say of themselves.

use crate::agent::{Agent, AgentError};
use api::problem::{Code, Problem};
use model::workload::Configuration;

impl Agent {
    /// Refuses a release whose code cannot run beside the code that serves, or on what a store was contracted to.
    pub(crate) async fn check_schemas(
        &self,
        wanted: &Configuration,
    ) -> Result<Result<(), Problem>, AgentError> {
        let contracted = self.records.contracted().await?;
        let active = self.active().and_then(|id| self.stamps.get(&id));
        for (name, store) in &wanted.stores {
            let Some(range) = store.schema else { continue };
            let refuse = |message: String, hint: &str| {
                Ok(Err(Problem::new(Code::Conflict, message).hint(hint.to_owned())))
            };
            if let Some(contracted) = contracted.get(name)
                && range.newest < contracted.version
            {
                let by =
                    self.records.release(contracted.by).await?.map(|record| record.name).unwrap_or_default();
                let message = format!(
                    "this release works with schema {range} of {name}, and {} ({by}) has contracted it to {}",
                    contracted.by, contracted.version
                );
                return refuse(message, "release code that works with that schema");
            }
            let served = active.and_then(|stamp| {
                let range = stamp.release.configuration.stores.get(name)?.schema?;
                Some((range, stamp))
            });
            if let Some((served, stamp)) = served
                && !range.overlaps(served)
            {
                let message = format!(
                    "this release works with schema {range} of {name}, and {} ({}), which serves, with {served}",
                    stamp.id, stamp.release.name
                );
                return refuse(message, "release something in between that works with both");
            }
        }
        Ok(Ok(()))
    }
}
