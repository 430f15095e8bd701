//! What only the stamp before has.

use crate::stage::{
    Answer, Gateway, PATIENCE, Reply, TOKEN, Upstream, dead_address, error, get, ok, put, stamp, stamp_at,
    wait_for,
};
use api::gateway::{KeptArtifact, PutTable, TableStamp};
use model::away::PreviousStamp;
use model::flow::Method;
use model::name::{Digest, StampId};
use model::workload::Route;
use std::fs;

/// With a route that asks the stamp before.
fn asking(mut stamp: TableStamp, files: Option<&str>) -> TableStamp {
    stamp.settings.routes = vec![Route {
        method: Method::Get,
        path: "/assets/**".into(),
        objective: None,
        queue: None,
        previous_stamp: Some(PreviousStamp { files: files.map(str::to_owned) }),
    }];
    stamp
}

fn path(line: &str) -> &str {
    line.split(' ').nth(1).unwrap()
}

fn not_found(body: &str) -> Reply {
    let head = format!("HTTP/1.1 404 No\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    Reply::Send(head.into_bytes())
}

/// Has nothing.
fn empty() -> Upstream {
    Upstream::start(|_, _| not_found("new: none"))
}

/// Has one file, and one that it stumbles over.
fn before() -> Upstream {
    Upstream::start(|seen, _| match (path(seen.line()), seen.line().starts_with("HEAD")) {
        ("/assets/old.js", true) => Reply::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".to_vec()),
        ("/assets/old.js", false) => ok("old script"),
        ("/assets/bad.js", _) => error(),
        (_, _) => not_found("old: none"),
    })
}

/// Kept warm after a promotion.
fn kept_warm(active: &TableStamp, previous: &TableStamp) -> PutTable {
    let mut put = put(Some(active), None);
    put.table.previous = Some(previous.clone());
    put
}

fn asks(gateway: &Gateway, method: &str, path: &str) -> Answer {
    gateway.ask(&format!("{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
}

#[test]
fn what_only_the_stamp_before_has_is_answered_by_it() {
    let (new, old) = (empty(), before());
    let gateway = Gateway::start();
    gateway.put(&kept_warm(&asking(stamp(2, &[&new]), None), &stamp(1, &[&old]))).unwrap();
    let answer = gateway.get("/assets/old.js");
    assert_eq!((answer.status, answer.text()), (200, "old script"));
    assert_eq!(answer.one("via"), "1.1 mainstay", "filtered as any other answer");
    // Both were asked the same.
    assert_eq!(new.wait(1)[0].head, old.wait(1)[0].head);
    let line = &gateway.lines(1)[0];
    assert_eq!((line["previous"].as_bool(), line["status"].as_u64()), (Some(true), Some(200)), "{line}");
    assert_eq!((line["stamp"].as_str(), line["route"].as_str()), (Some("s2"), Some("GET /assets/**")));
    let mut browser = gateway.browse();
    browser.send("HEAD /assets/old.js HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = browser.head().unwrap();
    assert_eq!((head.status, head.one("content-length")), (200, "10"));
    assert_eq!(gateway.metric("previous_stamp_total"), 2);
    wait_for("nothing in flight", || {
        let state = gateway.state();
        let idle = state.in_flight == 0 && state.instances.iter().all(|load| load.in_flight == 0);
        idle.then_some(())
    });
    let before = old.count();
    for _ in 0..4 {
        gateway.get("/assets/old.js");
    }
    let connections: Vec<usize> = old.wait(before + 4).iter().map(|seen| seen.connection).collect();
    let new = connections.iter().max().unwrap() + 1;
    assert!(new < connections.len(), "connections to it are used again: {connections:?}");
}

#[test]
fn one_that_hangs_delays_no_404_for_long() {
    let (new, old) = (empty(), Upstream::start(|_, _| Reply::Hang));
    let gateway = Gateway::start();
    let mut before = stamp(1, &[&old]);
    before.settings.limits.first_byte_timeout = 3 * PATIENCE;
    gateway.put(&kept_warm(&asking(stamp(2, &[&new]), None), &before)).unwrap();
    let answer = gateway.get("/assets/old.js");
    assert_eq!((answer.status, answer.text()), (404, "new: none"));
    assert_eq!(old.count(), 1);
    // What hung is closed, and what it took was given back.
    wait_for("nothing in flight", || {
        let state = gateway.state();
        (old.ended() == 1 && state.instances.iter().all(|load| load.in_flight == 0)).then_some(())
    });
    assert_eq!(gateway.state().failed, 0);
}

#[test]
fn what_it_has_not_either_is_the_404_it_was() {
    let (new, old) = (empty(), before());
    let gateway = Gateway::start();
    gateway.put(&kept_warm(&asking(stamp(2, &[&new]), None), &stamp(1, &[&old]))).unwrap();
    for (asked, path) in ["/assets/none.js", "/assets/bad.js"].into_iter().enumerate() {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.text()), (404, "new: none"), "{path}");
        assert_eq!(old.count(), asked + 1, "once");
    }
    for line in gateway.lines(2) {
        assert_eq!(line["previous"], false, "{line}");
    }
    assert_eq!(gateway.metric("previous_stamp_total"), 0);
    // One that does not answer at all.
    gateway.put(&kept_warm(&asking(stamp(2, &[&new]), None), &stamp_at(1, &[dead_address()]))).unwrap();
    assert_eq!(gateway.get("/assets/old.js").text(), "new: none");
}

#[test]
fn nothing_else_is_asked_of_it() {
    let (new, old) = (empty(), before());
    let gateway = Gateway::start();
    gateway.put(&kept_warm(&asking(stamp(2, &[&new]), None), &stamp(1, &[&old]))).unwrap();
    for (method, path) in [("GET", "/other"), ("POST", "/assets/old.js"), ("DELETE", "/assets/old.js")] {
        assert_eq!(asks(&gateway, method, path).status, 404, "{method} {path}");
    }
    let head = "GET /assets/old.js HTTP/1.1\r\nhost: a\r\n";
    let bodied = gateway.ask(&format!("{head}content-length: 3\r\n\r\nabc"));
    let preview = gateway.ask(&format!("{head}mainstay-preview: {TOKEN}\r\nmainstay-stamp: active\r\n\r\n"));
    assert_eq!((bodied.status, preview.status), (404, 404));
    assert_eq!((new.count(), old.count()), (5, 0));
}

#[test]
fn while_a_release_shifts_and_bakes_it_is_the_stamp_beside() {
    let (new, old) = (empty(), before());
    let (new_stamp, old_stamp) = (asking(stamp(2, &[&new]), None), stamp(1, &[&old]));
    let gateway = Gateway::start();
    let mut shift = put(Some(&old_stamp), Some(&new_stamp));
    shift.table.weight = 9999;
    gateway.put(&shift).unwrap();
    assert_eq!(gateway.get("/assets/old.js").text(), "old script");
    assert_eq!((new.count(), gateway.metric("previous_stamp_total")), (1, 1), "of a user of the candidate");
    let mut bake = put(Some(&new_stamp), None);
    bake.table.fallback = Some(old_stamp.clone());
    gateway.put(&bake).unwrap();
    assert_eq!(gateway.get("/assets/old.js").text(), "old script");
    gateway.put(&kept_warm(&new_stamp, &old_stamp)).unwrap();
    assert_eq!(gateway.get("/assets/old.js").text(), "old script");
    assert_eq!((new.count(), gateway.metric("previous_stamp_total")), (3, 3));
    // Retired, it is asked no more.
    gateway.put(&put(Some(&new_stamp), None)).unwrap();
    let asked = old.count();
    assert_eq!((gateway.get("/assets/old.js").status, old.count()), (404, asked));
}

#[test]
fn a_stamp_that_is_asked_drains_before_it_stops() {
    let (old, go) = Upstream::waiting("old");
    let new = empty();
    let gateway = Gateway::start();
    let active = asking(stamp(2, &[&new]), None);
    gateway.put(&kept_warm(&active, &stamp(1, &[&old]))).unwrap();
    let mut browser = gateway.browse();
    browser.send(get("/assets/a"));
    old.wait(1);
    let applied = gateway.put(&put(Some(&active), None)).unwrap();
    assert_eq!((applied.closed[0].stamp, applied.closed[0].in_flight), (StampId(1), 1));
    let load = gateway.state().instances.into_iter().find(|load| load.stamp == StampId(1)).unwrap();
    assert_eq!(load.in_flight, 1, "of an instance that is named no longer");
    go.send(()).unwrap();
    assert_eq!(browser.answer().text(), "old");
    wait_for("its end", || {
        let state = gateway.state();
        let over = state.closed.iter().all(|slot| slot.in_flight == 0);
        (over && state.instances.iter().all(|load| load.stamp != StampId(1))).then_some(())
    });
}

/// A gateway with an active stamp that has nothing, and the artifact of one that has stopped.
fn with_files(files: Option<&str>) -> (Gateway, Upstream) {
    let (gateway, new) = (Gateway::start(), empty());
    let digest = Digest::from_bytes([7; 32]);
    let root = gateway.folder.artifact(&digest);
    fs::create_dir_all(root.join("public/assets/deep")).unwrap();
    fs::write(root.join("secret.py"), "secret").unwrap();
    fs::write(root.join("public/assets/app.js"), "old script").unwrap();
    fs::write(root.join("public/assets/empty.css"), "").unwrap();
    fs::write(root.join("public/assets/a b.svg"), "<svg/>").unwrap();
    let large: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(root.join("public/assets/deep/large.bin"), large).unwrap();
    for (link, to) in [
        ("inside.js", "app.js"),
        ("outside.py", "../../secret.py"),
        ("absolute.py", root.join("secret.py").to_str().unwrap()),
        ("loop", "loop"),
    ] {
        std::os::unix::fs::symlink(to, root.join("public/assets").join(link)).unwrap();
    }
    let mut put = put(Some(&asking(stamp(2, &[&new]), files)), None);
    put.table.kept = Some(KeptArtifact { stamp: StampId(1), digest });
    gateway.put(&put).unwrap();
    (gateway, new)
}

#[test]
fn files_of_a_stamp_that_has_stopped_are_served() {
    let (gateway, _new) = with_files(Some("public"));
    for (path, kind, body) in [
        ("/assets/app.js", "text/javascript; charset=utf-8", "old script"),
        ("/assets/app.js?v=1", "text/javascript; charset=utf-8", "old script"),
        ("/assets/inside.js", "text/javascript; charset=utf-8", "old script"),
        ("/assets/empty.css", "text/css; charset=utf-8", ""),
        ("/assets/a%20b.svg", "image/svg+xml", "<svg/>"),
    ] {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
        assert_eq!(answer.one("content-type"), kind, "{path}");
        assert_eq!(answer.one("content-length"), body.len().to_string(), "{path}");
        assert!(answer.all("cache-control").is_empty(), "{path}");
    }
    let mut browser = gateway.browse();
    browser.send(get("/assets/deep/large.bin"));
    let large = browser.answer();
    assert!(large.body.iter().enumerate().all(|(place, byte)| usize::from(*byte) == place % 251));
    assert_eq!(large.body.len(), 300_000);
    // The connection goes on.
    browser.send(get("/assets/app.js"));
    assert_eq!(browser.answer().text(), "old script");
    let lines = gateway.lines(7);
    assert!(lines.iter().all(|line| line["previous"] == true && line["status"] == 200), "{lines:?}");
    assert!(lines.iter().any(|line| line["bytes_out"] == 300_000), "{lines:?}");
    assert_eq!((gateway.metric("previous_stamp_total"), gateway.state().failed), (7, 0));
}

#[test]
fn a_file_has_a_tag_and_a_head() {
    let (gateway, _new) = with_files(Some("public"));
    let tag = gateway.get("/assets/app.js").one("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 30, "{tag}");
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".into()] {
        let mut browser = gateway.browse();
        browser.send(format!("GET /assets/app.js HTTP/1.1\r\nhost: a\r\nif-none-match: {known}\r\n\r\n"));
        let answer = browser.head().unwrap();
        assert_eq!((answer.status, answer.one("etag")), (304, tag.as_str()), "{known}");
    }
    let other = "GET /assets/app.js HTTP/1.1\r\nhost: a\r\nif-none-match: \"x\"\r\n\r\n";
    assert_eq!(gateway.ask(other).text(), "old script");
    let mut browser = gateway.browse();
    browser.send("HEAD /assets/app.js HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = browser.head().unwrap();
    assert_eq!((head.status, head.one("content-length"), head.one("etag")), (200, "10", tag.as_str()));
    browser.send(get("/assets/app.js"));
    assert_eq!(browser.answer().text(), "old script", "no body came with the head");
}

#[test]
fn nothing_outside_the_folder_is_a_file_of_it() {
    let (gateway, new) = with_files(Some("public"));
    let paths = [
        "/assets/none.js",
        "/assets/",
        "/assets/deep",
        "/assets/../../secret.py",
        "/assets/%2e%2e/%2e%2e/secret.py",
        "/assets/..%2f..%2fsecret.py",
        "/assets/%252e%252e/secret.py",
        "/assets//app.js",
        "/assets/./app.js",
        "/assets/app.js%00",
        "/assets/outside.py",
        "/assets/absolute.py",
        "/assets/loop",
    ];
    for path in paths {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.text()), (404, "new: none"), "{path}");
    }
    assert_eq!((new.count(), gateway.metric("previous_stamp_total")), (paths.len(), 0));
    // Without a folder no file is anybody's.
    let (gateway, _new) = with_files(None);
    assert_eq!(gateway.get("/assets/app.js").status, 404);
    let (gateway, _new) = with_files(Some("public/assets/outside.py"));
    assert_eq!(gateway.get("/assets/app.js").status, 404);
}
