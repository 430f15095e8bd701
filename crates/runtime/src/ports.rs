//! Ports for instances: a block of its own for each environment, outside the range from which the kernel
//! takes ports for outgoing connections.
//!
//! A port inside that range can be taken by anybody's outgoing connection between the choice and the
//! instance's `bind`. Outside it only a process that asks for this very port can take it.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// How many ports an environment has for its instances.
pub const BLOCK: u16 = 200;

/// The lowest port of any block. Below lie most ports that people choose by hand.
pub const FLOOR: u16 = 10_240;

/// The end of the blocks (exclusive) where the kernel's range is not known or leaves no block above
/// [`FLOOR`]. It is where the kernel's own default begins (ip(7), `ip_local_port_range`).
pub const CEILING: u16 = 32_768;

/// No port of the block is free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "none of the ports {first} to {last} is free: {taken} belong to instances of this environment, on \
     {busy} something else listens"
)]
pub struct NoPort {
    /// The first port of the block.
    pub first: u16,
    /// The last port of the block.
    pub last: u16,
    /// How many the caller called taken.
    pub taken: usize,
    /// How many could not be bound.
    pub busy: usize,
}

impl NoPort {
    /// What to do next.
    pub fn hint(&self) -> String {
        format!("see what listens there: ss -ltnp 'sport >= :{} and sport <= :{}'", self.first, self.last)
    }
}

/// The ports of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    next: u16,
}

impl Ports {
    /// The block of the environment with this random id, beside the kernel's range on this machine.
    ///
    /// `turn` says where in the block to begin, so that the ports an earlier agent gave away last are not
    /// the first to be given again: the agent's fence token will do. Two environments have the same block
    /// in about one of a hundred cases; then they skip each other's ports as they skip any that is in use.
    pub fn new(environment_id: &str, turn: u64) -> Self {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Self::beside(local_start(&text), environment_id, turn)
    }

    fn beside(local_start: Option<u16>, environment_id: &str, turn: u64) -> Self {
        let ceiling = local_start.filter(|start| *start >= FLOOR + BLOCK).unwrap_or(CEILING);
        let blocks = (ceiling - FLOOR) / BLOCK;
        let hash: [u8; 32] = Sha256::digest(environment_id.as_bytes()).into();
        let number = u64::from_be_bytes(hash[..8].try_into().expect("a digest has 32 bytes"));
        let block = u16::try_from(number % u64::from(blocks)).expect("there are fewer blocks than ports");
        // 37 shares no factor with the size of the block, so consecutive turns begin far apart.
        let next = u16::try_from(turn % u64::from(BLOCK) * 37 % u64::from(BLOCK)).expect("less than BLOCK");
        Self { first: FLOOR + block * BLOCK, next }
    }

    /// The first port of the block.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The last port of the block.
    pub fn last(&self) -> u16 {
        self.first + (BLOCK - 1)
    }

    /// A port that is not in `taken` and that an instance can bind on any address right now. Ports are
    /// given in turn, so one that has just become free is the last to be given again.
    ///
    /// # Errors
    /// [`NoPort`] when every port of the block is taken or in use.
    pub fn allocate(&mut self, taken: &BTreeSet<u16>) -> Result<u16, NoPort> {
        self.allocate_with(taken, can_bind)
    }

    /// How many ports of the block [`Ports::allocate`] could give right now. Blocking, but short: each is tried.
    pub fn free(&self, taken: &BTreeSet<u16>) -> u64 {
        let free = |port: &u16| !taken.contains(port) && can_bind(*port);
        (self.first..=self.last()).filter(free).count() as u64
    }

    /// The port that something had before, where it can be had again; otherwise another one, as
    /// [`Ports::allocate`] gives it.
    ///
    /// For what is started again while others still know it by its port. Connections of its former self that linger
    /// in TIME_WAIT are no hindrance, so it must set SO_REUSEADDR itself.
    ///
    /// # Errors
    /// [`NoPort`] when every port of the block is taken or in use.
    pub fn again(&mut self, before: Option<u16>, taken: &BTreeSet<u16>) -> Result<u16, NoPort> {
        // The standard library sets SO_REUSEADDR; a listener on any address is in the way all the same.
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        match before {
            Some(port) if port != 0 && !taken.contains(&port) && free(port) => Ok(port),
            Some(_) | None => self.allocate(taken),
        }
    }

    fn allocate_with(&mut self, taken: &BTreeSet<u16>, free: impl Fn(u16) -> bool) -> Result<u16, NoPort> {
        let mut busy = 0;
        for step in 0..BLOCK {
            let offset = (self.next + step) % BLOCK;
            let port = self.first + offset;
            if taken.contains(&port) {
                continue;
            }
            if free(port) {
                self.next = (offset + 1) % BLOCK;
                return Ok(port);
            }
            busy += 1;
        }
        let taken = taken.range(self.first..=self.last()).count();
        Err(NoPort { first: self.first, last: self.last(), taken, busy })
    }
}

fn local_start(text: &str) -> Option<u16> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a socket without any options can be bound to the port on every address.
///
/// Without SO_REUSEADDR (which the standard library sets) binding also fails while connections to a
/// former listener are in TIME_WAIT: an instance that does not set the option could not have the port.
fn can_bind(port: u16) -> bool {
    can_bind_to(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        && can_bind_to(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
}

fn can_bind_to(address: SocketAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = match socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None) {
        Ok(socket) => socket,
        // Without IPv6 nobody can be in the way there. Without any socket to try with (EMFILE) the port
        // is taken to be free: the instance's own `bind` is the judge anyway.
        Err(_) => return true,
    };
    if address.is_ipv6() && sockopt::set_ipv6_v6only(&socket, true).is_err() {
        return true;
    }
    match bind(&socket, &address) {
        Ok(()) => true,
        // IPv6 is compiled in and switched off.
        Err(cause) => cause == Errno::ADDRNOTAVAIL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_block_lies_between_the_floor_and_the_kernels_range(
            id in "[0-9a-f]{32}", turn: u64, start in proptest::option::of(1024u16..=65000)
        ) {
            let mut ports = Ports::beside(start, &id, turn);
            let ceiling = start.filter(|s| *s >= FLOOR + BLOCK).unwrap_or(CEILING);
            prop_assert!(ports.first() >= FLOOR && ports.last() < ceiling);
            let mut seen = BTreeSet::new();
            for _ in 0..BLOCK {
                let port = ports.allocate_with(&seen, |_| true).unwrap();
                prop_assert!((ports.first()..=ports.last()).contains(&port));
                prop_assert!(seen.insert(port), "{port} was given twice");
            }
            prop_assert!(ports.allocate_with(&seen, |_| true).is_err());
        }
    }

    #[test]
    fn a_freed_port_is_the_last_to_be_given_again() {
        let mut ports = Ports::beside(Some(32_768), "an id", 7);
        let mut taken = BTreeSet::new();
        let first = ports.allocate_with(&taken, |_| true).unwrap();
        for _ in 1..BLOCK {
            let port = ports.allocate_with(&taken, |_| true).unwrap();
            assert_ne!(port, first);
            taken.insert(port);
        }
        assert_eq!(ports.allocate_with(&taken, |_| true), Ok(first));
    }

    #[test]
    fn when_nothing_is_free_it_says_why() {
        let mut ports = Ports::beside(None, "an id", 0);
        let taken = BTreeSet::from([1, ports.first(), ports.last()]);
        let none = ports.allocate_with(&taken, |_| false).unwrap_err();
        assert_eq!((none.taken, none.busy), (2, 198));
        assert!(none.to_string().contains(&ports.first().to_string()), "{none}");
    }

    #[test]
    fn a_port_with_a_listener_on_any_address_is_not_free() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                assert!(address.starts_with('['), "{address} cannot be bound");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(!can_bind(port), "{address} was overlooked");
        }
        let mut ports = Ports::new("free somewhere", std::process::id().into());
        let port = ports.allocate(&BTreeSet::new()).unwrap();
        assert!((ports.first()..=ports.last()).contains(&port));
    }
}
