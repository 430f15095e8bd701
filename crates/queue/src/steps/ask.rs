//! Asking what became of a step of a saga.

use super::{key_of, known, step_of, upstream_of};
use crate::deliver::{Job, Message, Step};
use crate::outcome::probe_message;
use crate::saga::{Action, Place, next};
use crate::shared::Shared;
use std::sync::Arc;

impl Shared {
    /// Asks what became of a step.
    pub(crate) fn probe_step(self: &Arc<Self>, job: Job) -> Step {
        if job.known.is_empty() {
            // How far it came is lost, as with a damaged file: from its beginning, all of it might happen again.
            self.lock().book.probe_later(job.entry.id(), 0, None);
            return Step::Again;
        }
        let action = job.request.saga.as_ref().map(|saga| next(saga, &known(&job)));
        let Some(Action::Resolve(place)) = action else { return self.saga_step(job) };
        let message = self.step_probe_message(&job, place);
        let Some(message) = message.filter(|_| !place.undo) else {
            self.lock().book.probe_later(job.entry.id(), 0, None);
            return Step::Again;
        };
        let Some((upstream, begun)) = self.begin(&job, &message.to) else { return Step::Again };
        Step::Call(self.take_off(job, upstream, begun, Some(place), true, message))
    }

    fn step_probe_message(&self, job: &Job, place: Place) -> Option<Message> {
        let step = step_of(job, place)?;
        let key = key_of(&job.request, place);
        let template = step.probe.as_ref()?;
        let target = self.values(job).with_key(&key).path(template);
        match target {
            Ok(target) => {
                let timeout = step.timeout;
                Some(probe_message(job, upstream_of(job, place), target, key, timeout))
            }
            Err(error) => {
                tracing::warn!(job = job.entry.id(), step = step.name, %error, "a probe cannot be made");
                None
            }
        }
    }
}
