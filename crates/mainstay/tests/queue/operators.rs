//! What operators see of jobs and do to them.

use crate::buyers::{
    Buyers, Crowd, Hurried, answers, assert_all_are_there_once, count, depth, drained, one_by_one, order,
    queue, queue_is,
};
use crate::stage::{self, Shop};
use serde_json::{Value, json};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;
use std::time::Instant;
use testkit::{Answer, Environment, Ran, get, send, wait_until};

/// Orders are queued as they are, without a saga.
const QUEUED: &str = r#"
    [route."POST /api/orders"]
    queue           = { wait = "2s", order_by = "$.customer", idempotent = true }
    idempotency_key = "required"
"#;

fn shop() -> Environment {
    stage::shop(&Shop { more: QUEUED, ..Shop::plain() })
}

fn queue_does(environment: &Environment, arguments: &[&str]) -> Ran {
    environment.mainstay(&[&["--json", "queue"], arguments].concat())
}

fn ordered(environment: &Environment, key: &str, body: &str) -> Answer {
    let fields =
        [("content-type", "application/json"), ("idempotency-key", key), ("prefer", "respond-async")];
    send(environment.address, "POST", "/api/orders", &fields, body).expect("the gateway answers")
}

/// Accepts orders with these keys; gives the numbers of their jobs.
fn accepted(environment: &Environment, keys: &[&str], body: impl Fn(&str) -> String) -> Vec<String> {
    let accept = |key: &&str| {
        let answer = ordered(environment, key, &body(key));
        assert_eq!(answer.status, 202, "{answer:?}");
        let location = answer.field("location").expect("an address");
        let name = location.rsplit('/').next().expect("a path");
        name.split_once('-').expect("a number and a tag").0.to_owned()
    };
    keys.iter().map(accept).collect()
}

fn orders_of(environment: &Environment, reference: &str) -> usize {
    let answer = get(environment.address, &format!("/api/orders?ref={reference}")).expect("somebody serves");
    let found: Value = serde_json::from_str(&answer.body).expect("JSON");
    found["items"].as_array().expect("items").len()
}

/// The numbers and states of all jobs that fit.
fn listed(environment: &Environment, more: &[&str]) -> Vec<(String, String)> {
    let list = queue_does(environment, &[&["list", "here"], more].concat()).ok().json();
    let jobs = list["jobs"].as_array().expect("jobs").iter();
    jobs.map(|job| (job["id"].to_string(), job["state"].as_str().expect("a state").to_owned())).collect()
}

fn ids(listed: &[(String, String)]) -> Vec<String> {
    listed.iter().map(|(id, _)| id.clone()).collect()
}

#[test]
fn deliveries_are_paused_and_go_on() {
    let environment = shop();
    let paused = queue_does(&environment, &["pause", "here"]).ok().json();
    assert_eq!(paused["paused"], true, "{paused}");
    let waiting = accepted(&environment, &["a", "b", "c"], |key| order("ada", key));
    let found = listed(&environment, &["--only", "waiting"]);
    assert_eq!(ids(&found), waiting);
    // A paused queue outlives its gateway.
    let gateway = environment.status().expect("it is up")["gateway"]["pid"].clone();
    stage::kill(&gateway);
    let after = queue_is(&environment, "the next gateway has the queue", |status| depth(status) == 3);
    assert_eq!(after["paused"], true, "{after}");
    assert_eq!(orders_of(&environment, "a"), 0);

    let resumed = queue_does(&environment, &["resume", "here"]).ok().json();
    assert_eq!(resumed["paused"], false, "{resumed}");
    drained(&environment);
    for reference in ["a", "b", "c"] {
        assert_eq!(orders_of(&environment, reference), 1, "{reference}");
    }

    let route = "POST /api/orders";
    let paused = queue_does(&environment, &["pause", "here", "--route", route]).ok().json();
    assert_eq!(paused["paused_routes"], json!([route]), "{paused}");
    accepted(&environment, &["d"], |key| order("ada", key));
    assert_eq!(orders_of(&environment, "d"), 0);
    queue_does(&environment, &["resume", "here", "--route", route]).ok();
    drained(&environment);
    assert_eq!(orders_of(&environment, "d"), 1);

    let said = environment.mainstay(&["queue", "resume", "here", "--route", route]).ok();
    assert!(said.stdout.starts_with("POST /api/orders was not paused\n"), "{said:?}");
    let mistyped = environment.mainstay(&["queue", "pause", "here", "--route", "POST /api/order"]);
    assert_eq!(mistyped.code, 2, "{mistyped:?}");
    assert!(mistyped.stderr.contains("queued are \"POST /api/orders\""), "{mistyped:?}");

    let log = queue_does(&environment, &["log", "here"]).ok().json();
    let log: Vec<_> =
        log["operations"].as_array().expect("operations").iter().map(|one| &one["verb"]).collect();
    assert_eq!(log, ["resume", "pause", "resume", "pause"], "the latest first");
    let latest = environment.mainstay(&["queue", "log", "here", "-n", "3"]).ok();
    assert!(latest.stdout.trim_end().ends_with("… and what was done before entry 2"), "{latest:?}");
    assert!(latest.stderr.contains("mainstay queue log here -n 3 --before 2"), "{latest:?}");
    let oldest = environment.mainstay(&["queue", "log", "here", "-n", "3", "--before", "2"]).ok();
    assert_eq!(oldest.stdout.lines().count(), 1, "{oldest:?}");
}

#[test]
fn what_the_service_refused_is_shown_edited_retried_and_dropped() {
    let environment = shop();
    let unknown_shoe = |key: &str| order("ada", key).replace("SHOE-00001", "SHOE-99999");
    let jobs = accepted(&environment, &["a", "b", "c", "d"], unknown_shoe);
    let rejected = wait_until("the service refuses them", || {
        Some(listed(&environment, &["--only", "rejected"])).filter(|found| found.len() == 4)
    });
    assert_eq!(ids(&rejected), jobs);
    let shown = queue_does(&environment, &["show", "here", &jobs[0]]).ok().json();
    assert_eq!((&shown["key"], &shown["answer"]["status"]), (&json!("a"), &json!(422)), "{shown}");
    assert_eq!(shown["body"]["text"], unknown_shoe("a"), "{shown}");
    assert!(shown["job"]["why"].as_str().is_some_and(|why| why.contains("422")), "{shown}");

    // With another body it is the order that was meant.
    let body = environment.write("body.json", &order("ada", "a"));
    let body = body.to_str().expect("text");
    queue_does(&environment, &["edit", "here", &jobs[0], "--body", body]).ok();
    wait_until("it is delivered", || (orders_of(&environment, "a") == 1).then_some(()));

    // One is tried again at once; of many the plan comes first, and changes nothing.
    queue_does(&environment, &["retry", "here", &jobs[1]]).ok();
    wait_until("it is refused once more", || {
        Some(listed(&environment, &["--only", "rejected"])).filter(|found| found.len() == 3)
    });
    for verb in ["retry", "drop"] {
        let plan = queue_does(&environment, &[verb, "here", "--only", "rejected"]).ok().json();
        assert_eq!((&plan["count"], &plan["planned"]), (&json!(3), &json!(true)), "{plan}");
        let meant: Vec<String> =
            plan["ids"].as_array().expect("numbers").iter().map(Value::to_string).collect();
        assert_eq!(meant, jobs[1..], "{plan}");
    }
    assert_eq!(listed(&environment, &["--only", "rejected"]).len(), 3);
    let again = queue_does(&environment, &["retry", "here", "--only", "rejected", "--yes"]).ok().json();
    assert_eq!((&again["count"], &again["planned"]), (&json!(3), &json!(false)), "{again}");
    wait_until("they are refused once more", || {
        Some(listed(&environment, &["--only", "rejected"])).filter(|found| found.len() == 3)
    });
    let dropped = queue_does(&environment, &["drop", "here", "--only", "rejected", "--yes"]).ok().json();
    assert_eq!(dropped["count"], 3, "{dropped}");
    assert_eq!(ids(&listed(&environment, &["--only", "dropped"])), jobs[1..]);
    assert!(ids(&listed(&environment, &["--only", "delivered"])).contains(&jobs[0]));
    for reference in ["b", "c", "d"] {
        assert_eq!(orders_of(&environment, reference), 0, "{reference}");
    }

    let said = [
        (vec!["retry", "here"], "which jobs"),
        (vec!["drop", "here", "99", "--yes"], "99"),
        (vec!["show", "here", "99"], "99"),
        (vec!["list", "here", "--only", "lost"], "lost"),
        (vec!["edit", "here", &jobs[0], "--body", "nowhere.json"], "nowhere.json"),
        (vec!["edit", "here", &jobs[0], "--body", body], "delivered"),
    ];
    for (arguments, part) in said {
        let ran = queue_does(&environment, &arguments);
        assert!(ran.code != 0 && ran.stdout.contains(part), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn jobs_move_to_another_environment_once() {
    let (here, there) = (shop(), shop());
    queue_does(&here, &["pause", "here"]).ok();
    let references = ["a", "b", "c"];
    let jobs = accepted(&here, &references, |key| order("ada", key));
    let file = here.folder().join("jobs.jsonl");
    let file = file.to_str().expect("text");
    let export = |environment: &Environment| environment.mainstay(&["queue", "export", "here", file]);
    export(&here).ok();
    let mode = std::fs::metadata(file).expect("a file").mode() & 0o777;
    assert_eq!(mode, 0o600, "it holds what users sent");
    let again = export(&here);
    assert!(again.code != 0 && again.stderr.contains("jobs.jsonl"), "nothing is overwritten: {again:?}");

    let imported = queue_does(&there, &["import", "here", file]).ok().json();
    assert_eq!((&imported["accepted"], &imported["repeated"]), (&json!(3), &json!(0)), "{imported}");
    drained(&there);
    let imported = queue_does(&there, &["import", "here", file]).ok().json();
    assert_eq!((&imported["accepted"], &imported["repeated"]), (&json!(0), &json!(3)), "{imported}");
    for reference in references {
        assert_eq!(orders_of(&there, reference), 1, "{reference}");
        // Their keys came along.
        let replayed = ordered(&there, reference, &order("ada", reference));
        assert_eq!(
            (replayed.status, replayed.field("idempotent-replayed")),
            (201, Some("true")),
            "{replayed:?}"
        );
    }
    // Where they came from they are given up.
    let dropped = queue_does(&here, &["drop", "here", "--only", "waiting", "--yes"]).ok().json();
    assert_eq!(dropped["count"], 3, "{dropped}");
    queue_does(&here, &["resume", "here"]).ok();
    assert_eq!(ids(&listed(&here, &["--only", "dropped"])), jobs);

    let bad = here.write("bad.jsonl", "{\"a\":1}\n");
    let bad = queue_does(&there, &["import", "here", bad.to_str().expect("text")]);
    assert_ne!(bad.code, 0, "{bad:?}");
}

/// Writes over every other page of 4096 bytes but the first ones.
fn damage(environment: &Environment) {
    let path = environment.state().join("queue.db");
    // What is in the log would stand in for what is written over.
    let into_the_file = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                         c.execute('PRAGMA wal_checkpoint(TRUNCATE)'); c.close()";
    let done = Command::new("python3").args(["-c", into_the_file]).arg(&path).status();
    assert!(done.expect("python3 can be run").success());
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the queue's file");
    let pages = file.metadata().expect("a file").len() / 4096;
    assert!(pages > 20, "{pages} pages");
    for page in (8..pages).step_by(2) {
        file.write_all_at(&[0xa5; 4096], page * 4096).expect("it can be written");
    }
    // The header says that it is a database.
    file.write_all_at(b"not a database..", 0).expect("it can be written");
}

#[test]
fn a_damaged_file_refuses_by_name_forwarding_goes_on_and_what_is_left_is_salvaged() {
    let environment = shop();
    queue_does(&environment, &["pause", "here"]).ok();
    let crowd = Crowd { buyers: 8, orders: Some(40), hurried: Hurried::All, order: one_by_one };
    let sales = Buyers::come(environment.address, crowd).have_enough();
    let accepted = sales.iter().map(Vec::len).sum::<usize>();
    assert_eq!(accepted, 8 * 40);
    environment.mainstay(&["down", "here"]).ok();
    damage(&environment);
    environment.mainstay(&["up", "here"]).ok();

    let troubled = queue_is(&environment, "the trouble is told", |status| status["trouble"].is_string());
    assert!(troubled["trouble"].as_str().is_some_and(|why| why.contains("queue.db")), "{troubled}");
    let refused = ordered(&environment, "new", &order("ada", "new"));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("queue.db") && refused.body.contains("queue-closed"), "{refused:?}");
    assert!(refused.field("retry-after").is_some(), "{refused:?}");
    for path in ["/api/products?page=1", "/api/orders/count"] {
        assert_eq!(get(environment.address, path).expect("somebody serves").status, 200, "{path}");
    }

    let repaired = queue_does(&environment, &["repair", "here"]);
    assert_eq!(repaired.code, 1, "not all of it is saved: {repaired:?}");
    let repaired = repaired.json();
    let number = |what: &str| usize::try_from(repaired[what].as_u64().expect("a number")).expect("not many");
    let (saved, lost) = (number("jobs"), number("lost"));
    assert!(saved > 20 && lost > 20, "{repaired}");
    assert!(repaired["notes"].as_array().is_some_and(|notes| !notes.is_empty()), "{repaired}");
    let aside = repaired["aside"].as_str().expect("where the damaged file is");
    assert!(std::fs::metadata(aside).is_ok(), "{aside}");

    let open = queue_is(&environment, "the queue is open again", |status| status["open"] == true);
    assert_eq!(open["trouble"], Value::Null, "{open}");
    let log = queue_does(&environment, &["log", "here", "-n", "1"]).ok().json();
    let entry = &log["operations"][0];
    assert_eq!((&entry["verb"], &entry["count"]), (&json!("repair"), &repaired["jobs"]), "{log}");
    let own = std::fs::metadata(environment.state()).expect("the state folder").uid();
    assert_eq!(entry["by_uid"], own, "{log}");
    // What is not whole is never sent by itself; of what is, the operator knows that none was sent.
    let all = |state: &str| ids(&listed(&environment, &["--only", state, "-n", "500"]));
    let (waiting, unknown, dead) = (all("waiting"), all("unknown"), all("dead"));
    assert_eq!(depth(&open), (waiting.len() + unknown.len()) as u64, "{open}");
    assert!(waiting.len() + unknown.len() + dead.len() <= saved, "{open}");
    queue_does(&environment, &["resume", "here"]).ok();
    for id in &unknown {
        queue_does(&environment, &["resolve", "here", id, "--not-delivered"]).ok();
    }
    drained(&environment);
    let counts: Vec<usize> =
        sales.iter().flatten().map(|sale| orders_of(&environment, &sale.reference)).collect();
    assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), waiting.len() + unknown.len());
    println!("{saved} of {accepted} saved, {} of them whole; {lost} lost", waiting.len() + unknown.len());
    let taken = wait_until("orders are taken again", || {
        Some(ordered(&environment, "new", &order("ada", "new"))).filter(|answer| answer.status != 503)
    });
    assert!([201, 202].contains(&taken.status), "{taken:?}");
    let sound = queue_does(&environment, &["repair", "here"]);
    assert_ne!(sound.code, 0, "a file in order is not repaired: {sound:?}");
    assert!(queue(&environment).is_some());
}

#[test]
fn a_queue_that_is_well_is_told_from_one_that_is_not_needed() {
    let environment = stage::shop(&Shop::plain());
    let status = queue(&environment).expect("the gateway answers");
    assert_eq!((&status["open"], &status["trouble"]), (&json!(false), &Value::Null), "{status}");
    let list = queue_does(&environment, &["list", "here"]);
    assert!(list.code != 0 && list.stdout.contains("no queue"), "{list:?}");
    assert!(!environment.state().join("queue.db").exists());

    let queued = shop();
    let before = drained(&queued);
    let buyers = Buyers::come(
        queued.address,
        Crowd { buyers: 3, orders: Some(5), hurried: Hurried::None, order: one_by_one },
    );
    let sales = buyers.have_enough();
    let status = drained(&queued);
    assert_eq!(count(&status, "answered_directly") - count(&before, "answered_directly"), 15, "{status}");
    assert_eq!(assert_all_are_there_once(&queued, &sales), 15);
    assert_eq!(answers(&queued, &sales).into_iter().collect::<Vec<_>>(), [(Ok(201), 15)]);
}

#[test]
fn jobs_are_exported_to_standard_output_and_chosen_by_their_age() {
    let environment = shop();
    queue_does(&environment, &["pause", "here"]).ok();
    let old = accepted(&environment, &["a"], |key| order("ada", key));
    wait_until("it is a little older", || {
        Some(listed(&environment, &["--only", "waiting", "--older-than", "5s"]))
            .filter(|found| !found.is_empty())
    });
    let before = Instant::now();
    let new = accepted(&environment, &["b"], |key| order("ada", key));
    // Older than the second one by far, and not as old as the first.
    let age = || format!("{}ms", before.elapsed().as_millis() + 4_000);
    assert_eq!(ids(&listed(&environment, &["--only", "waiting", "--older-than", &age()])), old);
    assert_eq!(ids(&listed(&environment, &["--only", "waiting", "--older-than", "1h"])), [""; 0]);
    assert_eq!(ids(&listed(&environment, &["--only", "waiting"])), [&old[..], &new[..]].concat());
    let plan =
        queue_does(&environment, &["drop", "here", "--only", "waiting", "--older-than", &age()]).ok().json();
    assert_eq!((&plan["count"], &plan["planned"]), (&json!(1), &json!(true)), "{plan}");

    // Lines of JSON and nothing else, for the next command of a pipe.
    let exported = environment.mainstay(&["queue", "export", "here"]).ok();
    let lines: Vec<Value> = exported
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let bodies: Vec<Value> = lines.iter().map(|line| line["body"].clone()).collect();
    assert_eq!(bodies, [json!(order("ada", "a")), json!(order("ada", "b"))], "{exported:?}");
    let file = environment.write("again.jsonl", &exported.stdout);
    let file = file.to_str().expect("text");
    queue_does(&environment, &["drop", "here", "--only", "waiting", "--older-than", &age(), "--yes"]).ok();
    let imported = queue_does(&environment, &["import", "here", file]).ok().json();
    assert_eq!((&imported["accepted"], &imported["repeated"]), (&json!(1), &json!(1)), "{imported}");
    queue_does(&environment, &["resume", "here"]).ok();
    drained(&environment);
    for reference in ["a", "b"] {
        assert_eq!(orders_of(&environment, reference), 1, "{reference}");
    }
}
