//! What a request gets whose key is known.

use super::Arrival;
use crate::job::{Answer, JobId, JobState};
use crate::shared::Shared;
use crate::submission::Submitted;
use std::sync::Arc;
use store::journal::ReadError;

impl Shared {
    /// What a request gets whose key is that of `id`. None: the key is free again.
    pub(super) async fn repeated(
        self: &Arc<Self>,
        id: JobId,
        arrival: &Arrival,
    ) -> Result<Option<Submitted>, ReadError> {
        let found = self.read(move |shared| shared.journal.identity(id)).await?;
        let Some(identity) = found else {
            // Forgotten: it was kept as long as it had to be.
            return Ok(None);
        };
        let is_same = identity.fingerprint == arrival.identity.fingerprint;
        let is_others = identity.credentials != arrival.identity.credentials && arrival.is_of_everybody();
        match (is_same, is_others) {
            (false, true) => return Ok(Some(Submitted::OtherCredentials)),
            (false, false) => return Ok(Some(Submitted::Mismatch)),
            (true, _) => {}
        }
        let mut found = self.read(move |shared| shared.look(id)).await?;
        if matches!(&found, Some((view, _)) if view.state == JobState::Dispatching) {
            // It may have been answered, and its outcome may be on its way to the disk.
            self.settled().await;
            found = self.read(move |shared| shared.look(id)).await?;
        }
        let Some((view, answer)) = found else { return Ok(None) };
        if !view.is_settled() {
            return Ok(Some(if is_others { Submitted::OtherCredentials } else { Submitted::Repeated(view) }));
        }
        // Credentials that were not good bind nothing: with better ones the same request is worth another try. And 409 may
        // be about an attempt of before that nothing is known of here, as a call that was made too early to be written
        // down (decision 22): by now it may be over.
        let conflict = arrival.may_happen_again() && arrival.request.saga.is_none() && !is_others;
        let refused = |answer: &Answer| match answer.status {
            401 | 403 => true,
            409 => conflict,
            _ => false,
        };
        if view.state == JobState::Done && answer.as_ref().is_some_and(refused) {
            return Ok(None);
        }
        Ok(Some(if is_others { Submitted::OtherCredentials } else { Submitted::Replay(view, answer) }))
    }
}

impl Arrival {
    /// Whether its key is the route's, because the route names no principal.
    fn is_of_everybody(&self) -> bool {
        self.request.settings.principal.is_none()
    }
}
