//! Which stamp a request goes to: the one it asks for, or the one its user has.

use crate::affinity::{self, User};
use crate::door::{self, Wish};
use crate::fault::Refusal;
use crate::routes::{Routes, Target};
use http::HeaderMap;
use std::sync::Arc;

/// What decides about a request's stamp, read from its fields once. The table may be another one each time it is
/// asked: a slot can close before it is claimed, and a stamp's instances can all be away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// What was asked for at the preview door.
    pub(crate) wish: Wish,
    /// The value of the affinity cookie that the answer is to set.
    pub(crate) cookie: Option<u64>,
    /// None: users were not shifted when the request came, so the active stamp is right.
    user: Option<User>,
    /// The candidate did not take the request.
    diverted: bool,
}

/// A stamp that was chosen.
pub(crate) struct Chosen<'a> {
    pub(crate) target: &'a Arc<Target>,
    /// It is the candidate, because of the weight: the active stamp would do as well.
    pub(crate) by_weight: bool,
}

impl Choice {
    /// Reads and removes what is meant for the gateway.
    ///
    /// # Errors
    /// The preview door is asked for what it does not give.
    pub(crate) fn read(
        fields: &mut HeaderMap,
        routes: &Routes,
        random: impl FnOnce() -> u64,
    ) -> Result<Self, Refusal> {
        let wish = door::wish(fields, &routes.preview_token)?;
        let mut choice = Self { wish, cookie: None, user: None, diverted: false };
        if let Some(shift) = routes.shift()
            && wish.is_none()
        {
            let (user, cookie) = affinity::recognise(fields, &shift.active.affinity, random);
            (choice.user, choice.cookie) = (Some(user), cookie);
        }
        Ok(choice)
    }

    /// For a request that was written down, of the user with this hash.
    pub(crate) fn later(user: Option<u64>, wish: Wish) -> Self {
        Self { wish, cookie: None, user: user.map(User), diverted: false }
    }

    /// The hash of the user, if users were shifted when the request came.
    pub(crate) fn user(&self) -> Option<u64> {
        self.user.map(|user| user.0)
    }

    /// The stamp by this table.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn target<'a>(&self, routes: &'a Routes) -> Result<Chosen<'a>, Refusal> {
        if !self.wish.is_none() {
            return door::target(self.wish, routes).map(|target| Chosen { target, by_weight: false });
        }
        if let Some(user) = self.user
            && !self.diverted
            && let Some(shift) = routes.shift()
            && user.place(shift.candidate.release) < shift.weight
        {
            return Ok(Chosen { target: shift.candidate, by_weight: true });
        }
        let target = routes.serving().ok_or_else(door::no_active_stamp)?;
        Ok(Chosen { target, by_weight: false })
    }

    /// From now on the request is the active stamp's.
    pub(crate) fn divert(&mut self) {
        self.diverted = true;
    }
}
