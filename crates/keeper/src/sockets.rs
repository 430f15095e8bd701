//! The listening sockets: bound once, handed to every gateway.

use crate::StartError;
use api::keeper::{Answer, LISTENER_LIMIT};
use model::workload::Listen;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

/// How many connections wait while a gateway is started again; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// One listening socket per address. Never SO_REUSEPORT: it would let a stranger of the same user take a
/// share of the connections without a word, and closing one of the sockets would reset what queues in it.
#[derive(Debug)]
pub(crate) struct Sockets {
    named: Vec<(&'static str, TcpListener)>,
}

impl Sockets {
    pub(crate) fn bind(listen: &Listen) -> Result<Self, StartError> {
        let addresses = [("http", Some(listen.http)), ("admin", listen.admin)];
        let mut named = Vec::new();
        for (name, address) in addresses {
            let Some(address) = address else { continue };
            let socket = TcpListener::bind(address).map_err(|cause| StartError::Listen { address, cause })?;
            rustix::net::listen(&socket, BACKLOG)
                .map_err(|cause| StartError::Listen { address, cause: cause.into() })?;
            named.push((name, socket));
        }
        Ok(Self { named })
    }

    pub(crate) fn send(&self, connection: &UnixStream) -> std::io::Result<()> {
        let names = self.named.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut line = serde_json::to_vec(&Answer::Listeners { v: api::PROTOCOL_VERSION, names })?;
        line.push(b'\n');
        let sockets: Vec<BorrowedFd<'_>> = self.named.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENER_LIMIT))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&sockets));
        assert!(fits, "there are at most {LISTENER_LIMIT} listening sockets");
        rustix::net::sendmsg(connection, &[IoSlice::new(&line)], &mut control, SendFlags::empty())?;
        Ok(())
    }
}
