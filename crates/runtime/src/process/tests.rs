use super::*;
use std::process::{Command, Stdio};

#[test]
fn a_stat_line_is_read_whatever_the_process_calls_itself() {
    let tail = "S 10 20 30 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1000 77 3";
    for name in ["sh", "a b", "x) S 1 1 1 (", ")"] {
        let stat = parse_stat(format!("42 ({name}) {tail}").as_bytes()).unwrap();
        let expected = Stat {
            state: 'S',
            parent: 10,
            group: 20,
            session: 30,
            threads: 3,
            start_ticks: 987_654,
            resident: 77,
        };
        assert_eq!(stat, expected, "{name}");
    }
    for bad in ["", "42", "42 (sh) S 1 2", "42 (sh) S a b c"] {
        assert_eq!(parse_stat(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn a_process_is_alive_until_it_ends_even_if_nobody_reaps_it() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let id = identify(child.id()).unwrap();
    assert!(alive(&id));
    assert!(!alive(&ProcessId { start_ticks: id.start_ticks + 1, ..id.clone() }), "another process's number");
    assert!(!alive(&ProcessId { boot_id: "another boot".to_owned(), ..id.clone() }));
    let fd = open(&id).unwrap();
    drop(child.stdin.take());
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
    assert!(!alive(&id), "it has ended and was not reaped");
    child.wait().unwrap();
    assert!(open(&id).is_none());
}

fn process(parent: u32, group: u32, session: u32, start_ticks: u64) -> Stat {
    Stat { state: 'S', parent, group, session, threads: 1, start_ticks, resident: 1 }
}

fn id(pid: u32, start_ticks: u64) -> ProcessId {
    ProcessId { pid, start_ticks, boot_id: String::new() }
}

fn pids(all: &BTreeMap<u32, Stat>, shim: &ProcessId, leader: Option<&ProcessId>) -> Vec<u32> {
    belonging(all, shim, leader).iter().map(|member| member.pid).collect()
}

#[test]
fn a_family_is_group_session_and_descendants() {
    let (shim, leader) = (id(100, 50), id(101, 51));
    let mut all = BTreeMap::from([
        (1, process(0, 1, 1, 0)),
        (40, process(1, 40, 40, 10)),
        (100, process(40, 100, 100, 50)),
        (101, process(100, 101, 100, 51)),
        (102, process(101, 101, 100, 52)),
        // Has left its group, then its session too; found by session and by descent.
        (103, process(102, 103, 100, 53)),
        (104, process(103, 104, 104, 54)),
        // Was orphaned and came to the shim, the subreaper.
        (105, process(100, 105, 105, 55)),
        (200, process(40, 200, 200, 60)),
    ]);
    assert_eq!(pids(&all, &shim, Some(&leader)), [101, 102, 103, 104, 105]);

    all.get_mut(&102).unwrap().state = 'Z';
    assert_eq!(pids(&all, &shim, Some(&leader)), [101, 103, 104, 105], "what has ended does not count");
    all.get_mut(&102).unwrap().state = 'S';

    // The shim is dead: its children went to init.
    all.remove(&100);
    all.get_mut(&101).unwrap().parent = 1;
    all.get_mut(&105).unwrap().parent = 1;
    assert_eq!(pids(&all, &shim, Some(&leader)), [101, 102, 103, 104]);
    assert_eq!(pids(&all, &shim, None), [101, 102, 103, 104]);
}

#[test]
fn numbers_that_were_given_away_again_belong_to_strangers() {
    let (shim, leader) = (id(100, 50), id(101, 51));
    let all = BTreeMap::from([
        (1, process(0, 1, 1, 0)),
        (100, process(1, 100, 100, 900)),
        (110, process(100, 110, 100, 901)),
        (101, process(1, 101, 101, 902)),
        (111, process(101, 101, 101, 903)),
    ]);
    assert!(pids(&all, &shim, Some(&leader)).is_empty());
}
