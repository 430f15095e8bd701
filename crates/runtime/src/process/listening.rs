//! Who listens where: the sockets a process holds, matched with the kernel's table of sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// TCP_LISTEN in the `st` column of `/proc/net/tcp` (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// What a family of processes listens on, and whether a stranger has its port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Where the family listens.
    pub own: BTreeSet<(IpAddr, u16)>,
    /// A process outside the family listens on the port, on an address by which this machine reaches
    /// itself.
    pub stranger: bool,
    /// The sockets of some of the family could not be read, so what seems a stranger's may be its own.
    pub hidden: bool,
}

/// Where these processes listen. What cannot be read (processes of other users, or made unreadable with
/// prctl(2) PR_SET_DUMPABLE) is left out.
pub fn listening_ports(pids: &[u32]) -> BTreeSet<(IpAddr, u16)> {
    look(pids, 0).own
}

/// Looks at where these processes listen, and at who has `port`.
pub fn look(pids: &[u32], port: u16) -> Look {
    let mut look = Look::default();
    let mut sockets = BTreeSet::new();
    for pid in pids {
        match sockets_of(*pid) {
            Ok(inodes) => sockets.extend(inodes),
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => look.hidden = true,
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    for listener in listeners(pids) {
        if sockets.contains(&listener.inode) {
            look.own.insert((listener.address, listener.port));
        } else if listener.port == port && reaches_itself(listener.address) {
            look.stranger = true;
        }
    }
    look
}

/// Whether a connection to 127.0.0.1 or ::1 can end at a socket that is bound to this address.
pub(crate) fn reaches_itself(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// The inodes of all sockets a process holds.
fn sockets_of(pid: u32) -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        if let Ok(target) = std::fs::read_link(entry.path())
            && let Some(inode) = socket_inode(&target)
        {
            inodes.insert(inode);
        }
    }
    Ok(inodes)
}

fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Everything that listens in the network namespaces of these processes. One table is read for each
/// namespace, not for each process.
fn listeners(pids: &[u32]) -> Vec<Listener> {
    let mut namespaces = BTreeMap::new();
    for pid in pids {
        if let Ok(namespace) = std::fs::read_link(format!("/proc/{pid}/ns/net")) {
            namespaces.entry(namespace).or_insert(*pid);
        }
    }
    let mut found = Vec::new();
    for pid in namespaces.values() {
        for table in ["tcp", "tcp6"] {
            // `tcp6` is missing where IPv6 is off.
            let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            found.extend(text.lines().skip(1).filter_map(parse_line));
        }
    }
    found
}

/// One line of `/proc/net/tcp` or `tcp6`, if its socket listens.
fn parse_line(line: &str) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let address = parse_address(address)?.to_canonical();
    Some(Listener { address, port: u16::from_str_radix(port, 16).ok()?, inode })
}

/// An address is printed as words of 32 bits in the machine's own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_of_the_table_is_read_as_the_kernel_writes_it() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 \
                  4242 1 0000000000000000 100 0 0 10 0";
        let v6 = "   1: 00000000000000000000000001000000:4E20 00000000000000000000000000000000:0000 0A \
                  00000000:00000000 00:00000000 00000000     0        0 77 1 0000000000000000 100 0 0 10 0";
        let connected = v4.replace(" 0A ", " 01 ");
        let any = v6.replace("00000000000000000000000001000000", "00000000000000000000000000000000");
        let listener =
            |address: &str, port, inode| Some(Listener { address: address.parse().unwrap(), port, inode });
        let table = [
            (v4, listener("127.0.0.1", 8080, 4242)),
            (v6, listener("::1", 20000, 77)),
            (&any, listener("::", 20000, 77)),
            (&connected, None),
            ("", None),
            ("nonsense", None),
        ];
        for (line, expected) in table {
            assert_eq!(parse_line(line), expected, "{line}");
        }
    }

    #[test]
    fn this_process_is_seen_to_listen_and_a_stranger_is_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = look(&[std::process::id()], port);
        assert!(own.own.contains(&("127.0.0.1".parse().unwrap(), port)), "{own:?}");
        assert!(!own.stranger);

        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let seen = look(&[other.id()], port);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(seen.stranger, "{seen:?}");
        assert!(seen.own.is_empty(), "{seen:?}");
    }
}
