//! The keeper's socket, `run/keeper.sock`: one JSON line asks, one JSON line answers.
//!
//! `listeners` is answered with the listening sockets themselves, by SCM_RIGHTS, in the order of
//! [`Answer::Listeners`].

use serde::{Deserialize, Serialize};

/// What the keeper can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// For the listening sockets.
    Listeners {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
    },
    /// How its children are.
    State {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
    },
    /// To end gateway and agent, and itself. Answered when both are gone; instances are the agent's affair.
    Down {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
    },
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// One file descriptor for each name comes with this line.
    Listeners {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
        /// `http`, `admin`.
        names: Vec<String>,
    },
    /// How its children are.
    State {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
        /// The keeper's process.
        pid: u32,
        /// The agent's process, while it runs.
        agent: Option<u32>,
        /// The gateway's process, while it runs.
        gateway: Option<u32>,
        /// How often each was started again.
        agent_restarts: u32,
        /// How often each was started again.
        gateway_restarts: u32,
    },
    /// Gateway and agent are gone.
    Down {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
    },
    /// The ask was not understood.
    Refused {
        /// [`crate::PROTOCOL_VERSION`].
        v: u32,
        /// Why.
        message: String,
    },
}
