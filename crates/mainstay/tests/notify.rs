//! Whoever wants to know of a release is told of every change of it, again if need be, and never waited for.

mod stage;

use serde_json::Value;
use stage::{Shop, release};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use testkit::wait_until;

/// A webhook that refuses the first call.
struct Hook {
    url: String,
    heard: Arc<Mutex<Vec<Value>>>,
}

fn hook() -> Hook {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/told", listener.local_addr().expect("an address"));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let heard_by_thread = Arc::clone(&heard);
    // Ends with the test program.
    std::thread::spawn(move || {
        let mut status = "500 No";
        for stream in listener.incoming().flatten() {
            // Whoever else may come to this port says nothing.
            let Some(body) = body(stream, status) else { continue };
            status = "204 Heard";
            heard_by_thread.lock().expect("nobody panics").push(body);
        }
    });
    Hook { url, heard }
}

/// The JSON of one request, which is answered with `status`.
fn body(mut stream: TcpStream, status: &str) -> Option<Value> {
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).ok()?;
        text.extend_from_slice(&part[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let parsed = whole.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
        if parsed.is_some() || read == 0 {
            // In one piece; whether it arrives is the other side's business.
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
            return parsed;
        }
    }
}

#[test]
fn a_command_and_a_webhook_hear_of_every_change() {
    let hook = hook();
    let told = tempfile::tempdir().expect("a folder");
    let file = told.path().join("told");
    let more = format!(
        "[notify]\nwebhook = \"{}\"\ncommand = [\"sh\", \"-c\", \"cat >> \\\"$0\\\"; echo >> \\\"$0\\\"\", \"{}\"]\n",
        hook.url,
        file.display()
    );
    let environment = stage::shop(&Shop { more: &more, ..Shop::plain() });
    release(&environment, "v2").ok();
    let states = |told: &[Value], release: u64| -> Vec<String> {
        let of = told.iter().filter(|event| event["release"] == release);
        of.map(|event| event["state"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let expected = ["planned", "provisioning", "verifying", "switching", "promoted"];
    wait_until("the command has heard of it all", || {
        let text = std::fs::read_to_string(&file).ok()?;
        let told: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (states(&told, 2) == expected).then_some(())
    });
    let heard = wait_until("the webhook has heard of it all", || {
        let heard = hook.heard.lock().expect("nobody panics").clone();
        (states(&heard, 2) == expected).then_some(heard)
    });
    // What was refused is told again, with the same number.
    assert_eq!(heard[0]["id"], heard[1]["id"], "{heard:?}");
    assert_eq!(heard[0]["environment"], "here");
}

#[test]
fn a_webhook_that_nobody_answers_holds_up_nothing() {
    let more = "[notify]\nwebhook = \"http://127.0.0.1:9/nobody\"\n";
    let environment = stage::shop(&Shop { more, ..Shop::plain() });
    release(&environment, "v2").ok();
    environment.mainstay(&["rollback", "here"]).ok();
}
