//! Queued routes and sagas in files that are right, and what they mean.

use model::flow::{JsonTemplate, Method};
use model::name::{ComponentName, EnvironmentName, SagaName};
use model::queue::{
    InFlightAnswer, KeyUse, Principal, QueueLimits, QueuedRoute, SAGA_STEPS_LIMIT, Saga, SagaCall,
};
use model::template::Template;
use model::workload::Configuration;
use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;
use workfile::Workfile;

const BASE: &str = "[workload]\nname = \"shop\"\n[component.api]\nrun = [\"./shop\", \"{port}\"]\n\
                    [component.payments]\nexternal = \"http://payments.example/v1\"\nas = \"PAYMENTS_URL\"\n\
                    sandbox = { run = [\"./payments\", \"{port}\"] }\n[gateway]\ndefault = \"api\"\n";

fn parse(more: &str) -> Workfile {
    let text = format!("{BASE}{more}");
    workfile::parse("mainstay.toml", &text, Path::new("/w")).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn environment<'w>(file: &'w Workfile, name: &str) -> &'w Configuration {
    file.configuration(&EnvironmentName::new(name).expect("a name")).expect("an environment of the file")
}

fn queued<'c>(configuration: &'c Configuration, route: &str) -> Option<&'c QueuedRoute> {
    let route = configuration.gateway.routes.iter().find(|known| known.name() == route);
    route.unwrap_or_else(|| panic!("a route {:?}", configuration.gateway.routes)).queue.as_ref()
}

fn saga<'c>(configuration: &'c Configuration, name: &str) -> &'c Saga {
    &configuration.gateway.sagas[&SagaName::new(name).expect("a name")]
}

fn filled(template: &Template) -> String {
    template.render(|name| Some(Cow::Owned(format!("<{name}>")))).expect("every value is given")
}

fn called(call: &SagaCall) -> String {
    format!("{} {} {}", call.method.as_str(), call.to, filled(&call.path))
}

#[test]
fn without_a_queue_there_are_defaults_and_nothing_queued() {
    let file = parse("[route.\"POST /api/orders\"]\n");
    let local = environment(&file, "local");
    assert_eq!(queued(local, "POST /api/orders"), None);
    assert_eq!(local.gateway.queue, QueueLimits::default());
    assert!(local.gateway.sagas.is_empty());
}

#[test]
fn true_is_every_default_and_each_unsafe_method_can_be_queued() {
    let methods = ["POST", "PUT", "PATCH", "DELETE"];
    let routes: String =
        methods.iter().map(|method| format!("[route.\"{method} /a\"]\nqueue = true\n")).collect();
    let file = parse(&routes);
    for method in methods {
        let route = queued(environment(&file, "local"), &format!("{method} /a"));
        assert_eq!(route, Some(&QueuedRoute::default()), "{method}");
    }
}

#[test]
fn everything_that_is_said_of_a_queued_route_is_kept() {
    let file = parse(
        "queue = { jobs = 5000, bytes = \"1GiB\", retention = \"2d\", concurrency = 8, longest_pause = \"10s\" }\n\
         [route.\"POST /api/orders\"]\n\
         queue = { wait = \"0s\", order_by = \"$.customer\", attempts = 7, idempotent = true, \
         probe = \"/api/orders?ref={body:$.items[?@.a < 1].ref}&key={key}\", unknown_hold = \"0s\", \
         max_age = \"2h\", body = \"64MiB\", attempt_timeout = \"5s\", in_flight = \"conflict\" }\n\
         idempotency_key = \"required\"\nprincipal = \"header:X-User\"\nsaga = \"checkout\"\n\
         [[saga.checkout.step]]\nname = \"record\"\npost = \"api:/api/orders\"\n",
    );
    let local = environment(&file, "local");
    let limits = QueueLimits {
        jobs: 5000,
        bytes: 1024 * 1024 * 1024,
        retention: Duration::from_secs(2 * 86_400),
        concurrency: 8,
        longest_pause: Duration::from_secs(10),
    };
    assert_eq!(local.gateway.queue, limits);
    let route = queued(local, "POST /api/orders").unwrap();
    let probe = filled(route.probe.as_ref().unwrap());
    assert_eq!(probe, "/api/orders?ref=<body:$.items[?@.a < 1].ref>&key=<key>");
    let expected = QueuedRoute {
        wait: Duration::ZERO,
        order_by: route.order_by.clone(),
        attempts: 7,
        idempotent: true,
        probe: route.probe.clone(),
        unknown_hold: Duration::ZERO,
        max_age: Duration::from_secs(7200),
        body: 64 * 1024 * 1024,
        attempt_timeout: Duration::from_secs(5),
        in_flight: InFlightAnswer::Conflict,
        key: KeyUse::Required,
        principal: Some(Principal::Header("x-user".to_owned())),
        saga: Some(SagaName::new("checkout").unwrap()),
    };
    assert_eq!((route, route.order_by.as_ref().unwrap().0.as_str()), (&expected, "$.customer"));
    // What is stored with a release is read again as it was.
    let stored = serde_json::to_string(local).unwrap();
    assert_eq!(&serde_json::from_str::<Configuration>(&stored).unwrap(), local);
}

#[test]
fn a_principal_is_a_field_a_cookie_or_a_claim() {
    let table = [
        ("header:Authorization", Principal::Header("authorization".to_owned())),
        ("cookie:Session", Principal::Cookie("Session".to_owned())),
        ("claim:https://shop.example/id", Principal::Claim("https://shop.example/id".to_owned())),
    ];
    for (text, expected) in table {
        let file = parse(&format!("[route.\"POST /a\"]\nqueue = true\nprincipal = \"{text}\"\n"));
        let route = queued(environment(&file, "local"), "POST /a").unwrap();
        assert_eq!(route.principal.as_ref(), Some(&expected), "{text}");
    }
}

#[test]
fn environments_turn_queues_off_and_on_and_merge_their_tables() {
    let file = parse(
        "queue = { jobs = 10, concurrency = 2 }\n\
         [route.\"POST /a\"]\nqueue = { wait = \"1s\", attempts = 3 }\nprincipal = \"cookie:s\"\n\
         [route.\"POST /b\"]\nqueue = true\n\
         [environment.a]\nclass = \"staging\"\ngateway.queue.jobs = 20\n\
         [environment.a.route.\"POST /a\"]\nqueue.wait = \"5s\"\n\
         [environment.a.route.\"POST /b\"]\nqueue = { wait = \"9s\" }\n\
         [environment.b]\nclass = \"staging\"\n[environment.b.route.\"POST /a\"]\nqueue = false\n",
    );
    let [a, b] = ["a", "b"].map(|name| environment(&file, name));
    assert_eq!((a.gateway.queue.jobs, a.gateway.queue.concurrency, b.gateway.queue.jobs), (20, 2, 10));
    let route = queued(a, "POST /a").unwrap();
    assert_eq!((route.wait, route.attempts), (Duration::from_secs(5), 3));
    assert_eq!(queued(a, "POST /b").unwrap().wait, Duration::from_secs(9));
    assert_eq!((queued(b, "POST /a"), queued(b, "POST /b")), (None, Some(&QueuedRoute::default())));
}

const CHECKOUT: &str = "[saga.checkout]\nanswer = \"record\"\n\
    [[saga.checkout.step]]\nname = \"charge\"\npost = \"payments:/charges\"\n\
    json = { customer = \"{body:$.customer}\", items = \"{body:$.items}\", n = 1 }\n\
    undo = { post = \"payments:/charges/{charge:$.id}/refund\", json = { of = \"{charge:$}\" } }\n\
    [[saga.checkout.step]]\nname = \"record\"\npost = \"api:/api/orders?charge={charge:$.id}\"\n\
    undo = { delete = \"api:/api/orders/{record:$.id}\" }\n\
    [[saga.checkout.step]]\nname = \"ship\"\nput = \"api:/labels/{key}\"\njson = \"{record:$}\"\n\
    attempts = 2\nidempotent = false\nprobe = \"/labels?key={key}\"\ntimeout = \"3s\"\n";

#[test]
fn a_saga_is_as_written_and_its_externals_stay_known() {
    let file = parse(&format!(
        "{CHECKOUT}[route.\"POST /a\"]\nqueue = {{ idempotent = true }}\nsaga = \"checkout\"\n\
         [environment.prod]\nclass = \"production\"\n[environment.dev]\nclass = \"development\"\n"
    ));
    let payments = ComponentName::new("payments").unwrap();
    for name in ["prod", "dev"] {
        let configuration = environment(&file, name);
        let saga = saga(configuration, "checkout");
        assert_eq!(saga.answer, "record");
        let calls: Vec<_> =
            saga.steps.iter().map(|step| (called(&step.call), step.undo.as_ref().map(called))).collect();
        let expected = [
            (
                "POST payments /charges".to_owned(),
                Some("POST payments /charges/<charge:$.id>/refund".to_owned()),
            ),
            (
                "POST api /api/orders?charge=<charge:$.id>".to_owned(),
                Some("DELETE api /api/orders/<record:$.id>".to_owned()),
            ),
            ("PUT api /labels/<key>".to_owned(), None),
        ];
        assert_eq!(calls, expected);
        let Some(JsonTemplate::Table(json)) = &saga.steps[0].call.json else { panic!("{saga:?}") };
        assert_eq!(json["n"], JsonTemplate::Integer(1));
        assert!(matches!(&json["items"], JsonTemplate::Text(text) if filled(text) == "<body:$.items>"));
        assert_eq!((&saga.steps[1].call.json, saga.steps[1].call.method), (&None, Method::Post));
        let kept: Vec<_> = saga.steps.iter().map(|step| (step.attempts, step.idempotent)).collect();
        assert_eq!(kept, [(20, true), (20, true), (2, false)]);
        assert_eq!(saga.steps[2].timeout, Duration::from_secs(3));
        assert_eq!(filled(saga.steps[2].probe.as_ref().unwrap()), "/labels?key=<key>");
        // In production the external itself, below what stands in for it: one of them is always there to be called.
        let url = configuration.externals.get(&payments).map(|external| external.url.as_str());
        let stand_in = configuration.services.get(&payments).is_some_and(|service| service.http);
        let expected =
            if name == "prod" { (Some("http://payments.example/v1"), false) } else { (None, true) };
        assert_eq!((url, stand_in), expected, "{name}");
    }
}

#[test]
fn the_steps_of_a_saga_honour_keys_when_all_its_routes_say_so() {
    let table: [(&[bool], bool); 4] =
        [(&[], false), (&[true], true), (&[true, false], false), (&[true, true], true)];
    for (routes, expected) in table {
        let route = |(n, idempotent)| {
            format!("[route.\"POST /r{n}\"]\nqueue.idempotent = {idempotent}\nsaga = \"checkout\"\n")
        };
        let routes: String = routes.iter().enumerate().map(route).collect();
        let file = parse(&format!("{CHECKOUT}{routes}"));
        let saga = saga(environment(&file, "local"), "checkout");
        assert_eq!(saga.steps[0].idempotent, expected, "{routes}");
    }
}

#[test]
fn the_last_step_answers_where_nothing_is_said() {
    let file = parse(&CHECKOUT.replace("answer = \"record\"\n", ""));
    assert_eq!(saga(environment(&file, "local"), "checkout").answer, "ship");
}

#[test]
fn a_saga_has_only_so_many_steps() {
    let steps = |count: usize| -> String {
        (0..count).map(|n| format!("[[saga.x.step]]\nname = \"s{n}\"\npost = \"api:/\"\n")).collect()
    };
    parse(&steps(SAGA_STEPS_LIMIT));
    let text = format!("{BASE}{}", steps(SAGA_STEPS_LIMIT + 1));
    let error = workfile::parse("f", &text, Path::new("/")).unwrap_err();
    assert_eq!(error.findings()[0].message(), "33 steps; at most 32");
}

#[test]
fn the_file_of_the_sample_workload_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workloads/shop/mainstay.toml");
    let file = workfile::read(&path).unwrap_or_else(|error| panic!("{error}"));
    for name in ["prod", "dev"] {
        let configuration = environment(&file, name);
        let route = queued(configuration, "POST /api/orders").expect("orders are queued");
        assert_eq!(route.saga.as_ref().map(SagaName::as_str), Some("checkout"));
        assert!(
            saga(configuration, "checkout").steps.iter().all(|step| step.idempotent && step.undo.is_some())
        );
    }
}
