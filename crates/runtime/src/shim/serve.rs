//! The shim's socket: one JSON line asks, one JSON line answers ([`api::shim`]).

use super::{Shared, spawn};
use api::PROTOCOL_VERSION;
use api::shim::{Answer, Ask, Exit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

/// The most connections at a time. One more is refused at once; an agent has one or two.
pub(super) const CONNECTIONS: usize = 16;

/// The longest ask, in bytes.
const ASK_LIMIT: u64 = 4096;

/// How long a connection may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a waiting connection is looked at: one whose agent has died makes room.
const HANG_UP_LOOK: Duration = Duration::from_secs(1);

/// How long to wait when a connection cannot be accepted (no file descriptors, no memory).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts connections for as long as the process lives.
pub(super) fn serve(shared: &Arc<Shared>, door: &UnixListener) {
    loop {
        let Ok((stream, _)) = door.accept() else {
            std::thread::sleep(ACCEPT_AGAIN);
            continue;
        };
        let mut state = shared.state();
        if state.connections >= CONNECTIONS {
            drop(state);
            answer(&stream, &refused(format!("{CONNECTIONS} connections are open already")));
            continue;
        }
        state.connections += 1;
        drop(state);
        let one = Arc::clone(shared);
        let spawned = spawn("answer", move || {
            if let Some(text) = converse(&one, &stream) {
                answer(&stream, &text);
            }
            one.state().connections -= 1;
            one.changed.notify_all();
        });
        if let Err(cause) = spawned {
            complain!("a connection could not be served: {cause}");
            shared.state().connections -= 1;
        }
    }
}

/// What to answer; None when nobody waits for it any more.
fn converse(shared: &Shared, stream: &UnixStream) -> Option<Answer> {
    let ask = match read_ask(stream) {
        Ok(ask) => ask,
        Err(message) => return Some(refused(message)),
    };
    match ask {
        Ask::Watch { .. } => until(shared, stream, false),
        Ask::Stop { fence, grace_ms, .. } => {
            let mut state = shared.state();
            if fence < state.fence {
                let seen = state.fence;
                return Some(refused(format!("an agent with token {seen} has spoken, this one has {fence}")));
            }
            state.fence = fence;
            shared.stop(&mut state, Duration::from_millis(grace_ms));
            drop(state);
            until(shared, stream, true)
        }
    }
}

fn read_ask(stream: &UnixStream) -> Result<Ask, String> {
    let mut line = String::new();
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    BufReader::with_capacity(512, stream.take(ASK_LIMIT))
        .read_line(&mut line)
        .map_err(|e| format!("the ask could not be read: {e}"))?;
    let ask = serde_json::from_str(&line).map_err(|e| format!("the ask does not parse: {e}"))?;
    let (Ask::Watch { v } | Ask::Stop { v, .. }) = ask;
    // Version N speaks N−1.
    if v > PROTOCOL_VERSION || v + 1 < PROTOCOL_VERSION {
        return Err(format!("version {v} is not spoken here, {PROTOCOL_VERSION} is"));
    }
    Ok(ask)
}

/// Waits for the end of the instance, or of all its family.
fn until(shared: &Shared, stream: &UnixStream, family: bool) -> Option<Answer> {
    let mut state = shared.state();
    loop {
        if let Some(exit) = &state.exit
            && (state.gone || !family)
        {
            return Some(Answer::Ended(Exit::clone(exit)));
        }
        if hung_up(stream) {
            return None;
        }
        state = shared.wait(state, HANG_UP_LOOK);
    }
}

/// Whether the other side has closed the connection. One that has only ended its half still listens.
fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

fn refused(message: String) -> Answer {
    Answer::Refused { v: PROTOCOL_VERSION, message }
}

fn answer(mut stream: &UnixStream, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).expect("messages have string keys and finite numbers");
    line.push(b'\n');
    // Who does not take the answer finds it in exit.json.
    let _ = stream.set_write_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(&line));
}
