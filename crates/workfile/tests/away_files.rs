//! What files say of live probes, held requests and the stamp before, right and wrong.

use model::away::{Hold, Live, PreviousStamp};
use model::name::{ComponentName, EnvironmentName};
use model::workload::Configuration;
use std::path::Path;
use std::time::Duration;

const BASE: &str = "[workload]\nname = \"shop\"\n\n[component.api]\nrun = [\"./shop\", \"{port}\"]\n";

fn parse(more: &str) -> Result<Configuration, String> {
    let text = format!("{BASE}{more}");
    let file = workfile::parse("mainstay.toml", &text, Path::new("/w")).map_err(|error| {
        let mut picture = String::new();
        let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor());
        handler.with_width(200).render_report(&mut picture, &error).expect("a report goes into a string");
        picture
    })?;
    let local = EnvironmentName::new("local").expect("a name");
    Ok(file.configuration(&local).expect("the one there is without any").clone())
}

fn right(more: &str) -> Configuration {
    parse(more).unwrap_or_else(|error| panic!("{error}"))
}

fn live(configuration: &Configuration) -> Option<Live> {
    configuration.services[&ComponentName::new("api").expect("a name")].live.clone()
}

#[test]
fn a_live_probe_has_a_path_and_usual_times() {
    let probe = |every, timeout| {
        let milliseconds = Duration::from_millis;
        Some(Live { get: "/healthz".into(), every: milliseconds(every), timeout: milliseconds(timeout) })
    };
    assert_eq!(live(&right("")), None);
    assert_eq!(live(&right("live = { get = \"/healthz\" }\n")), probe(1000, 500));
    let all = "live = { get = \"/healthz\", every = \"5s\", timeout = \"2s\" }\n";
    assert_eq!(live(&right(all)), probe(5000, 2000));
}

#[test]
fn requests_are_held_unless_the_file_says_otherwise() {
    assert_eq!(right("").gateway.hold, Hold { requests: 1000, time: Duration::from_secs(5) });
    let some = right("[gateway]\nhold = { requests = 7 }\n").gateway.hold;
    assert_eq!((some, some.is_off()), (Hold { requests: 7, time: Duration::from_secs(5) }, false));
    assert!(right("[gateway]\nhold = { time = \"0s\" }\n").gateway.hold.is_off());
}

#[test]
fn a_route_may_ask_the_stamp_before() {
    let files = |name: &str| Some(PreviousStamp { files: Some(name.into()) });
    for (said, expected) in [
        ("", None),
        ("previous_stamp = false\n", None),
        ("previous_stamp = true\n", Some(PreviousStamp { files: None })),
        ("previous_stamp = { files = \"public\" }\n", files("public")),
        ("previous_stamp = { files = \"dist/web/\" }\n", files("dist/web")),
    ] {
        let configuration = right(&format!("[route.\"GET /assets/**\"]\n{said}"));
        assert_eq!(configuration.gateway.routes[0].previous_stamp, expected, "{said}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_where_it_stands() {
    let route = |key: &str, said: &str| format!("[route.\"{key}\"]\nprevious_stamp = {said}\n");
    for (more, message) in [
        ("live = { every = \"1s\" }\n".into(), "`component.api.live` has no `get`"),
        ("live = { get = \"/x\", every = \"0s\" }\n".into(), "with no time at all nothing can succeed"),
        ("live = { get = \"x\" }\n".into(), "\"x\""),
        (
            "http = false\nlive = { get = \"/x\" }\n[component.web]\nrun = [\"./w\"]\n".into(),
            "`live` is not for workers",
        ),
        ("[component.db]\nstore = \"sqlite\"\nlive = { get = \"/x\" }\n".into(), "`live` is for services"),
        ("[gateway]\nhold = { time = \"2m\" }\n".into(), "a request cannot be held for \"2m\""),
        ("[gateway]\nhold = { requests = 0 }\n".into(), "`gateway.hold.requests`"),
        (route("POST /a", "true"), "`previous_stamp` is for GET, and this route is for POST"),
        (route("GET /a", "3"), "`previous_stamp` is neither true nor false nor a table"),
        (route("GET /a", "{}"), "`previous_stamp` has no `files`"),
        (route("GET /a", "{ files = 3 }"), "`files` is not a text"),
        (route("GET /a", "{ file = \"a\" }"), "unknown key `file`"),
        (route("GET /a", "{ files = \".\" }"), "\".\" is not a folder inside the artifact"),
        (route("GET /a", "{ files = \"/etc\" }"), "\"/etc\" is not a folder inside the artifact"),
        (route("GET /a", "{ files = \"a/../..\" }"), "is not a folder inside the artifact"),
        (route("GET /a", "{ files = \"\" }"), "is not a folder inside the artifact"),
    ] {
        let said = parse(&more).expect_err(&more);
        assert!(said.contains(message), "{more}\n{message}\n{said}");
    }
}
