//! The keeper's socket, `run/keeper.sock`: one JSON line asks, one JSON line answers.
//!
//! `listeners` is answered with the listening sockets themselves, by SCM_RIGHTS, in the order of
//! [`Answer::Listeners`].

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde::{Deserialize, Serialize};
use std::io::{BufRead as _, BufReader, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How many sockets a keeper hands over at most.
pub const LISTENER_LIMIT: usize = 8;
/// The longest line of this protocol, in bytes.
pub const LINE_LIMIT: usize = 4096;

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

/// Asks the keeper behind `socket` for the listening sockets, by name. Blocking, at most ten seconds.
pub fn listeners(socket: &Path) -> std::io::Result<Vec<(String, TcpListener)>> {
    let mut stream = connect(socket, Duration::from_secs(10))?;
    send(&mut stream, &Ask::Listeners { v: crate::PROTOCOL_VERSION })?;

    let mut line = [0; LINE_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENER_LIMIT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut line)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received.map(TcpListener::from));
        }
    }
    let answer = serde_json::from_slice(&line[..received.bytes])?;
    if let Answer::Listeners { names, .. } = &answer
        && names.len() == sockets.len()
    {
        return Ok(names.iter().cloned().zip(sockets).collect());
    }
    Err(std::io::Error::other(format!("{} sockets came with {answer:?}", sockets.len())))
}

/// Asks the keeper behind `socket` for anything but sockets. Blocking, at most `patience`.
pub fn ask(socket: &Path, ask: &Ask, patience: Duration) -> std::io::Result<Answer> {
    let mut stream = connect(socket, patience)?;
    send(&mut stream, ask)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn connect(socket: &Path, patience: Duration) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

fn send(stream: &mut UnixStream, ask: &Ask) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    stream.write_all(&line)
}
