use super::*;
use proptest::prelude::*;

/// Feeds `bytes` in pieces and returns how many passed, the heads among them, and the rejection.
fn feed(bytes: &[u8], cuts: &[usize]) -> (usize, u64, Option<Rejection>) {
    let mut framing = Framing::new();
    let (mut passed, mut heads) = (0, 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    for end in ends {
        let fed = framing.feed(&bytes[passed..end]);
        passed += fed.pass;
        heads += fed.heads;
        if fed.rejection.is_some() {
            return (passed, heads, fed.rejection);
        }
    }
    (passed, heads, None)
}

const STREAMS: &[&str] = &[
    "GET / HTTP/1.1\r\nhost: a\r\n\r\nPOST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345GET / HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;a=\"b\"\r\n12345\r\nA\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n000\r\na: b\r\nc: d\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\na : b\r\n\r\n",
    "GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n",
    "GET / HTTP/1.1\nhost: a\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
];

#[test]
fn every_cut_gives_the_same_verdict() {
    for stream in STREAMS {
        let bytes = stream.as_bytes();
        let whole = feed(bytes, &[]);
        for first in 0..=bytes.len() {
            assert_eq!(feed(bytes, &[first]), whole, "{stream:?} cut at {first}");
            for second in first..=bytes.len() {
                assert_eq!(feed(bytes, &[first, second]), whole, "{stream:?} cut at {first} and {second}");
            }
        }
        let everywhere: Vec<usize> = (0..bytes.len()).collect();
        assert_eq!(feed(bytes, &everywhere), whole, "{stream:?} byte by byte");
    }
}

#[test]
fn messages_end_where_they_say() {
    for (index, (heads, rejected)) in [
        (3, false),
        (2, false),
        (2, false),
        (1, true),
        (0, true),
        (1, true),
        (1, true),
        (0, true),
        (0, true),
        (1, true),
    ]
    .into_iter()
    .enumerate()
    {
        let (passed, seen, rejection) = feed(STREAMS[index].as_bytes(), &[]);
        assert_eq!((seen, rejection.is_some()), (heads, rejected), "{:?}", STREAMS[index]);
        assert!(rejected || passed == STREAMS[index].len());
    }
}

#[test]
fn a_head_passes_whole_or_not_at_all() {
    let mut framing = Framing::new();
    let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    for end in 0..head.len() {
        let fed = framing.feed(&head[..end]);
        assert_eq!((fed.pass, fed.heads), (0, 0));
    }
    assert!(!framing.between_messages());
    let fed = framing.feed(head);
    assert_eq!((fed.pass, fed.heads), (head.len(), 1));
    assert!(framing.between_messages());
}

#[test]
fn after_a_rejection_nothing_passes() {
    let mut framing = Framing::new();
    let first = framing.feed(b"GET / HTTP/1.1\r\n\r\n").rejection;
    assert_eq!(first, Some(Rejection::Malformed("no Host")));
    let again = framing.feed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!((again.pass, again.rejection), (0, first));
}

#[test]
fn limits_hold_wherever_the_bytes_are_cut() {
    let head = |bytes: usize| {
        let text = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(bytes));
        text.into_bytes()
    };
    let frame = head(0).len();
    let (fits, over) = (head(HEAD_BYTES - frame), head(HEAD_BYTES - frame + 1));
    for cuts in [&[][..], &[100], &[HEAD_BYTES - 1], &[HEAD_BYTES], &[HEAD_BYTES + 1], &[20, 40, 60_000]] {
        assert_eq!(feed(&fits, cuts), (fits.len(), 1, None), "{cuts:?}");
        assert_eq!(feed(&over, cuts), (0, 0, Some(Rejection::HeadTooLarge("bytes"))), "{cuts:?}");
    }
    let endless = vec![b'a'; HEAD_BYTES + 1];
    assert_eq!(feed(&endless, &[]).2, Some(Rejection::HeadTooLarge("bytes")));
}

/// What `httparse` and hyper would make of a head that passes: never something else.
fn reference(head: &[u8]) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(head).ok()?;
    let end = text.find("\r\n\r\n")?;
    let fields = text[..end].split("\r\n").count() - 1;
    Some((end + 4, fields))
}

proptest! {
    #[test]
    fn any_bytes_any_cuts(
        pieces in proptest::collection::vec(prop_oneof![
            Just("GET / HTTP/1.1\r\n".to_owned()),
            Just("host: a\r\n".to_owned()),
            Just("\r\n".to_owned()),
            Just("content-length: 3\r\n".to_owned()),
            Just("transfer-encoding: chunked\r\n".to_owned()),
            Just("3\r\nabc\r\n".to_owned()),
            Just("0\r\n".to_owned()),
            Just("\n".to_owned()),
            Just("\r".to_owned()),
            Just(" ".to_owned()),
            Just(":".to_owned()),
            "[a-z0-9:; \r\n\t]{0,6}",
        ], 0..14),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let bytes = pieces.concat().into_bytes();
        prop_assert_eq!(feed(&bytes, &cuts), feed(&bytes, &[]));
    }

    #[test]
    fn what_passes_is_read_the_same_by_a_plain_reader(names in proptest::collection::vec("[a-z-]{1,12}", 0..20), value in "[ -~]{0,30}") {
        let mut head = String::from("GET /x HTTP/1.1\r\nhost: a\r\n");
        let fields: Vec<_> = names.iter().filter(|name| !["host", "content-length", "transfer-encoding"].contains(&name.as_str())).collect();
        for name in &fields {
            head.push_str(&format!("{name}:{value}\r\n"));
        }
        head.push_str("\r\n");
        prop_assert_eq!(feed(head.as_bytes(), &[]), (head.len(), 1, None));
        prop_assert_eq!(reference(head.as_bytes()), Some((head.len(), fields.len() + 1)));
    }
}
