//! Bodies at their limits: of a route, and of what is in memory at once.

use super::{order, queueing, serving, to};
use crate::stage::{Answer, Browser, Gateway, Upstream, stamp, wait_for};
use model::queue::BODY_LIMIT;

/// Bytes of bodies in memory that are not on disk yet, as documented.
const TOGETHER: usize = 256 << 20;

/// Sends `body` in chunks of at most `size` bytes.
fn chunked(gateway: &Gateway, path: &str, body: &str, size: usize) -> Answer {
    let mut client = gateway.browse();
    client.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"));
    for chunk in body.as_bytes().chunks(size) {
        client.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    }
    // It may be refused before its end.
    let _ = client.try_send("0\r\n\r\n");
    client.answer()
}

#[test]
fn exactly_the_limit_is_taken_and_one_byte_more_is_413() {
    for limit in [1, 10, 100_000] {
        let upstream = Upstream::named("done");
        let gateway = serving(&upstream, |route| route.body = limit as u64);
        let (whole, more) = ("x".repeat(limit), "x".repeat(limit + 1));
        assert_eq!(gateway.ask(&order(&[], &whole)).status, 200, "{limit}");
        for size in [limit, limit.div_ceil(3)] {
            assert_eq!(chunked(&gateway, "/orders", &whole, size).status, 200, "{limit} in {size}");
        }
        let answer = gateway.ask(&order(&[], &more));
        assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"), "{limit}");
        assert_eq!(answer.one("connection"), "close");
        for size in [limit + 1, limit.div_ceil(3)] {
            let answer = chunked(&gateway, "/orders", &more, size);
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (413, "body-too-large"),
                "{limit} in {size}"
            );
            assert_eq!(answer.one("connection"), "close");
        }
        assert!(upstream.seen().iter().all(|seen| seen.body == whole.as_bytes()));
        assert_eq!((upstream.count(), gateway.metric("queue_accepted_total")), (3, 3));
    }
}

#[test]
fn the_limit_of_all_routes_is_that_of_queued_ones_too() {
    let upstream = Upstream::named("done");
    let gateway = Gateway::start();
    let mut stamp = queueing(stamp(1, &[&upstream]), |route| route.body = 100);
    stamp.settings.limits.body = 10;
    gateway.activate(&stamp);
    assert_eq!(gateway.ask(&order(&[], "1234567890")).status, 200);
    assert_eq!(gateway.ask(&order(&[], "12345678901")).problem(), "body-too-large");
    assert_eq!(chunked(&gateway, "/orders", "1234567890", 7).status, 200);
    assert_eq!(chunked(&gateway, "/orders", "12345678901", 7).problem(), "body-too-large");
}

/// A client that has sent all of its body but the last byte.
fn almost(gateway: &Gateway, body: &[u8]) -> Browser {
    let mut client = gateway.browse();
    let length = body.len() + 1;
    client.send(format!(
        "POST /orders HTTP/1.1\r\nhost: a\r\nprefer: wait=0\r\ncontent-length: {length}\r\n\r\n"
    ));
    client.send(body);
    client
}

fn is_answered(client: &mut Browser) -> bool {
    let socket = client.socket();
    socket.set_nonblocking(true).unwrap();
    let is_answered = socket.peek(&mut [0]).is_ok();
    socket.set_nonblocking(false).unwrap();
    is_answered
}

#[test]
fn bodies_in_memory_have_a_limit_together() {
    let upstream = Upstream::named("done");
    let gateway = serving(&upstream, |route| route.body = BODY_LIMIT);
    let body = vec![b'x'; usize::try_from(BODY_LIMIT).unwrap() - 1];
    let count = TOGETHER / (body.len() + 1);
    let mut clients: Vec<Browser> = (0..count).map(|_| almost(&gateway, &body)).collect();
    // The last bytes of them are free; whoever has one more is refused once all else is read.
    let more = order(&[], &"y".repeat(count + 1));
    let refused = wait_for("the limit", || {
        // A body whose last piece comes while this one is in memory may be the one that is refused.
        for client in &mut clients {
            if is_answered(client) {
                assert_eq!(client.answer().problem(), "overloaded");
                *client = almost(&gateway, &body);
            }
        }
        Some(gateway.ask(&more)).filter(|answer| answer.status != 200)
    });
    assert_eq!((refused.status, refused.problem().as_str()), (503, "overloaded"));
    assert!(refused.one("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(gateway.ask(&order(&[], &"y".repeat(count))).status, 200, "the limit itself can be reached");
    // Forwarded ones are not held in memory.
    assert_eq!(gateway.ask(&to("/plain", &[], &"y".repeat(100_000))).text(), "done");
    assert_eq!(gateway.ask(&more).status, 503);

    // One goes away, and one is whole: both make room.
    drop(clients.pop());
    let answer = wait_for("room", || Some(gateway.ask(&more)).filter(|answer| answer.status != 503));
    assert_eq!(answer.text(), "done");
    let mut last = clients.pop().unwrap();
    last.send("x");
    assert_eq!(last.answer().status, 202);
}
