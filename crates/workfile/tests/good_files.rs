//! Files that are right, and what they mean.

use model::flow::{JsonTemplate, Method, Objective};
use model::name::{ComponentName, EnvironmentName, FlowName};
use model::workload::{
    Affinity, Class, Configuration, External, Notify, OnInconclusive, Ready, ReleasePolicy, SchemaRange,
    Service, Store, StoreKind,
};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use workfile::Workfile;

fn shop() -> Workfile {
    workfile::read(Path::new("tests/fixtures/shop.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn parse(text: &str) -> Workfile {
    workfile::parse("mainstay.toml", text, Path::new("/w")).unwrap_or_else(|error| panic!("{error}"))
}

fn environment<'w>(file: &'w Workfile, name: &str) -> &'w Configuration {
    let name = EnvironmentName::new(name).expect("a name");
    file.configuration(&name).expect("an environment of the file")
}

fn service<'c>(configuration: &'c Configuration, name: &str) -> &'c Service {
    &configuration.services[&ComponentName::new(name).expect("a name")]
}

fn store<'c>(configuration: &'c Configuration, name: &str) -> &'c Store {
    &configuration.stores[&ComponentName::new(name).expect("a name")]
}

/// The share of errors, and p99 in milliseconds.
type Asked = (f64, Option<u64>);

/// The routes, each with what it must meet.
fn routes(configuration: &Configuration) -> Vec<(String, Option<Asked>)> {
    let shown = |objective: Objective| {
        (objective.errors, objective.p99.map(|p99| u64::try_from(p99.as_millis()).expect("small")))
    };
    configuration.gateway.routes.iter().map(|route| (route.name(), route.objective.map(shown))).collect()
}

fn filled(template: &model::template::Template) -> String {
    template.render(|name| Some(Cow::Owned(format!("<{name}>")))).expect("every value is given")
}

#[test]
fn the_shop_in_production_is_as_written() {
    let file = shop();
    assert_eq!(file.workload().as_str(), "shop");
    assert!(file.folder().is_absolute() && file.folder().ends_with("tests/fixtures"), "{:?}", file.folder());
    assert_eq!(
        file.environments().map(EnvironmentName::as_str).collect::<Vec<_>>(),
        ["dev", "prod", "staging"]
    );

    let prod = environment(&file, "prod");
    assert_eq!(
        (prod.workload.as_str(), prod.environment.as_str(), prod.class),
        ("shop", "prod", Class::Production)
    );
    assert_eq!(prod.listen.http.to_string(), "0.0.0.0:8081");
    assert_eq!(prod.listen.admin.unwrap().to_string(), "127.0.0.1:9100");
    assert_eq!(
        prod.listen.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.1", "::1"]
    );
    assert_eq!(prod.policy.keep_old, Duration::from_secs(7200));

    let api = service(prod, "api");
    let run: Vec<_> = api.run.iter().map(filled).collect();
    assert_eq!(run, ["./shop", "serve", "--port", "<port>", "--data", "<data>"]);
    assert_eq!(api.artifact, Path::new("target/release"));
    assert_eq!(api.instances, 2);
    assert_eq!(api.needs.iter().map(ComponentName::as_str).collect::<Vec<_>>(), ["stock", "db", "payments"]);
    let env: Vec<_> = api.env.iter().map(|(name, value)| (name.as_str(), filled(value))).collect();
    let expected = [("BRACES", "{}"), ("RELEASE", "<release.id>"), ("RUST_LOG", "info")];
    assert_eq!(env, expected.map(|(name, value)| (name, value.to_owned())));
    assert_eq!(api.ready, Ready { get: Some("/readyz".to_owned()), timeout: Duration::from_secs(20) });
    assert_eq!((api.limits.open_files, api.limits.memory), (Some(1024), Some(256 * 1024 * 1024)));
    assert!(api.http);
    assert_eq!(api.drain_timeout, Duration::from_secs(45));
    assert_eq!(service(prod, "stock").address_as.as_deref(), Some("STOCK_URL"));

    let gateway = &prod.gateway;
    assert_eq!(gateway.default.as_str(), "api");
    assert_eq!(gateway.hosts, ["shop.example", "[::1]"]);
    assert!(!gateway.access_log);
    assert_eq!((gateway.limits.body, gateway.limits.in_flight), (1024 * 1024, 64));
    assert_eq!(gateway.limits.connect_timeout, Duration::from_millis(500));
    assert_eq!(gateway.limits.first_byte_timeout, Duration::from_secs(5));
    assert_eq!(gateway.limits.idle_timeout, Duration::from_secs(60));
}

#[test]
fn the_flows_of_the_shop_are_as_written() {
    let file = shop();
    let flows = &environment(&file, "prod").flows;
    let browse = &flows[&FlowName::new("browse").unwrap()];
    assert_eq!((browse.weight, browse.production, browse.ledger.is_none()), (8, false, true));
    assert!((browse.objective.errors - 0.001).abs() < 1e-12);
    assert_eq!(browse.objective.p99, Some(Duration::from_millis(150)));
    assert_eq!(browse.steps[0].method, Method::Get);
    assert_eq!(browse.steps[0].expect.status, Some(200));
    assert_eq!(browse.steps[0].save["sku"].0, "$.items[0].sku");
    assert_eq!(filled(&browse.steps[0].headers["X-User"]), "<user.id>");
    assert_eq!(
        (browse.steps[1].method, filled(&browse.steps[1].path)),
        (Method::Head, "/api/products/<sku>".into())
    );

    let checkout = &flows[&FlowName::new("checkout").unwrap()];
    assert_eq!((checkout.weight, checkout.production), (1, true));
    assert_eq!(checkout.objective, model::flow::Objective::default());
    let ledger = checkout.ledger.as_ref().unwrap();
    assert_eq!(filled(&ledger.reference), "<uuid>");
    assert_eq!(filled(&ledger.confirm), "/api/orders?ref=<ref>");
    assert_eq!(ledger.count.0, "$.items");
    let Some(JsonTemplate::Table(body)) = &checkout.steps[1].json else { panic!("no table") };
    assert_eq!(body["gift"], JsonTemplate::Bool(false));
    assert_eq!(body["discount"], JsonTemplate::Float(0.5));
    let JsonTemplate::List(items) = &body["items"] else { panic!("no list") };
    let JsonTemplate::Table(item) = &items[0] else { panic!("no table") };
    assert_eq!(item["quantity"], JsonTemplate::Integer(1));
    let JsonTemplate::Text(sku) = &item["sku"] else { panic!("no text") };
    assert_eq!(filled(sku), "<sku>");
    assert_eq!(checkout.steps[2].method, Method::Delete);
}

#[test]
fn overlays_merge_tables_and_replace_the_rest_and_like_leaves_listen_behind() {
    let file = shop();
    let (prod, staging, dev) =
        (environment(&file, "prod"), environment(&file, "staging"), environment(&file, "dev"));
    assert_eq!(
        [prod.class, staging.class, dev.class],
        [Class::Production, Class::Staging, Class::Development]
    );
    for other in [staging, dev] {
        assert_eq!(other.listen.http.to_string(), "127.0.0.1:8080");
        assert_eq!(other.listen.admin, None);
        assert!(other.listen.trusted_proxies.is_empty());
    }
    let copies = |of: &Configuration| (service(of, "api").instances, service(of, "stock").instances);
    assert_eq!([copies(prod), copies(staging), copies(dev)], [(2, 1), (2, 3), (1, 3)]);

    let api = service(dev, "api");
    assert_eq!(api.run.iter().map(filled).collect::<Vec<_>>(), ["cargo", "run", "--", "<port>"]);
    let names: Vec<_> = api.env.keys().map(String::as_str).collect();
    assert_eq!(names, ["BRACES", "EXTRA", "RELEASE", "RUST_LOG"]);
    assert_eq!(filled(&api.env["RUST_LOG"]), "debug");
    assert_eq!(api.drain_timeout, Duration::from_secs(45));
    assert!(dev.gateway.access_log);
    assert_eq!((dev.gateway.limits.in_flight, dev.gateway.limits.body), (8, 1024 * 1024));
    assert_eq!(prod.gateway.limits.in_flight, 64);
    assert_eq!(prod.flows, dev.flows);
}

#[test]
fn the_smallest_file_has_a_default_for_everything() {
    let file = parse("[workload]\nname = \"w\"\n[component.app]\nrun = [\"./app\"]\n");
    assert_eq!(file.folder(), Path::new("/w"));
    assert_eq!(file.environments().map(EnvironmentName::as_str).collect::<Vec<_>>(), ["local"]);
    let local = environment(&file, "local");
    assert_eq!(local.class, Class::Development);
    assert_eq!(local.listen.http.to_string(), "127.0.0.1:8080");
    assert_eq!((local.listen.admin, local.listen.trusted_proxies.len()), (None, 0));
    let app = service(local, "app");
    assert_eq!((app.artifact.to_str(), app.instances, app.needs.len()), (Some("."), 1, 0));
    assert_eq!(app.ready, Ready { get: None, timeout: Duration::from_secs(10) });
    assert_eq!(app.drain_timeout, Duration::from_secs(30));
    assert_eq!((app.limits.open_files, &app.address_as), (None, &None));
    assert_eq!(local.gateway.default.as_str(), "app");
    assert!(local.gateway.access_log && local.gateway.hosts.is_empty());
    assert_eq!(local.gateway.limits, model::workload::GatewayLimits::default());
    assert_eq!(local.policy.keep_old, Duration::from_secs(600));
    assert!(local.flows.is_empty());
}

#[test]
fn traces_are_off_until_there_is_a_collector() {
    let file = parse(
        "[workload]\nname = \"w\"\n[component.app]\nrun = [\"./app\"]\n\
         [environment.a]\nclass = \"production\"\n\
         [environment.b]\nclass = \"staging\"\ngateway.traces = { endpoint = \"http://127.0.0.1:4318\" }\n\
         [environment.c]\nlike = \"b\"\ngateway.traces.share = \"25%\"\n",
    );
    assert_eq!(environment(&file, "a").gateway.traces, None);
    for (name, share) in [("b", 0.01), ("c", 0.25)] {
        let traces = environment(&file, name).gateway.traces.as_ref().expect("they are on");
        assert_eq!((traces.endpoint.as_str(), traces.share), ("http://127.0.0.1:4318", share), "{name}");
    }
}

#[test]
fn two_environments_may_listen_on_one_address() {
    let file = parse(
        "[workload]\nname = \"w\"\n[component.app]\nrun = [\"./app\"]\n\
         [environment.a]\nclass = \"production\"\n[environment.b]\nclass = \"staging\"\n",
    );
    assert_eq!(environment(&file, "a").listen, environment(&file, "b").listen);
}

#[test]
fn an_environment_takes_its_class_from_the_one_it_is_like() {
    let file = parse(
        "[workload]\nname = \"w\"\n[component.app]\nrun = [\"./app\"]\n\
         [environment.a]\nclass = \"staging\"\n[environment.b]\nlike = \"a\"\n",
    );
    assert_eq!(environment(&file, "b").class, Class::Staging);
}

#[test]
fn an_unknown_environment_is_answered_with_the_known_ones() {
    let file = shop();
    let error = file.configuration(&EnvironmentName::new("pord").unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no environment `pord` (did you mean `prod`?); the file has `dev`, `prod`, `staging`"
    );
    let error = file.configuration(&EnvironmentName::new("elsewhere").unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no environment `elsewhere`; the file has `dev`, `prod`, `staging`"
    );
}

/// A file of one service `api` for the environments `prod` and `dev`, with `text` before them.
fn between(text: &str) -> Workfile {
    parse(&format!(
        "[workload]\nname = \"w\"\n[component.api]\nrun = [\"./api\"]\n{text}\n\
         [environment.prod]\nclass = \"production\"\n[environment.dev]\nclass = \"development\"\n"
    ))
}

#[test]
fn a_worker_has_no_port_and_leaves_the_requests_to_the_others() {
    let file = between("[component.mailer]\nrun = [\"./mail\", \"{data}\"]\nhttp = false\nneeds = [\"api\"]");
    let prod = environment(&file, "prod");
    assert_eq!((service(prod, "mailer").http, service(prod, "api").http), (false, true));
    assert_eq!(service(prod, "mailer").needs, [ComponentName::new("api").unwrap()]);
    assert_eq!(prod.gateway.default.as_str(), "api");
}

#[test]
fn a_store_is_as_written_and_no_service() {
    let file = shop();
    let prod = environment(&file, "prod");
    let names: Vec<_> = prod.services.keys().map(ComponentName::as_str).collect();
    assert_eq!(names, ["api", "mailer", "stock"]);
    let db = store(prod, "db");
    assert_eq!((&db.kind, db.address_as.as_deref()), (&StoreKind::Sqlite, Some("DATABASE_URL")));
    assert_eq!(db.artifact, Path::new("target/release"));
    let hook = |hook: &[model::template::Template]| hook.iter().map(filled).collect::<Vec<_>>().join(" ");
    assert_eq!(hook(&db.expand), "./shop migrate expand --in <data>");
    assert_eq!(hook(&db.contract), "./shop migrate contract");
    assert_eq!(filled(&db.env["RELEASE"]), "<release.id>");
    assert_eq!(db.hook_timeout, Duration::from_secs(120));
    assert_eq!(db.schema, Some(SchemaRange { oldest: 2, newest: 3 }));
    assert_eq!(prod.stores, environment(&file, "dev").stores);
}

#[test]
fn a_store_has_a_default_for_all_but_its_kind_which_environments_may_choose() {
    let file = parse(
        "[workload]\nname = \"w\"\n[component.api]\nrun = [\"./api\"]\n[component.db]\nschema = \"7\"\n\
         [environment.prod]\nclass = \"production\"\ncomponent.db.url = \"postgres://u:p@db.example/w\"\n\
         [environment.dev]\nclass = \"development\"\ncomponent.db.store = \"postgres\"\n",
    );
    let expected = |kind| Store {
        kind,
        address_as: None,
        artifact: PathBuf::from("."),
        expand: Vec::new(),
        contract: Vec::new(),
        env: std::collections::BTreeMap::new(),
        hook_timeout: Duration::from_secs(300),
        schema: Some(SchemaRange { oldest: 7, newest: 7 }),
    };
    let url = StoreKind::Url("postgres://u:p@db.example/w".to_owned());
    assert_eq!(store(environment(&file, "prod"), "db"), &expected(url.clone()));
    assert_eq!(store(environment(&file, "dev"), "db"), &expected(StoreKind::Postgres));
    // One of them replaces the other, so that no environment is left with the address of the one it is like.
    let file = parse(
        "[workload]\nname = \"w\"\n[component.api]\nrun = [\"./api\"]\n\
         [component.db]\nschema = \"7\"\nstore = \"sqlite\"\n\
         [environment.prod]\nclass = \"production\"\ncomponent.db.url = \"postgres://u:p@db.example/w\"\n\
         [environment.dev]\nlike = \"prod\"\ncomponent.db.store = \"postgres\"\n\
         [environment.other]\nclass = \"staging\"\n",
    );
    assert_eq!(store(environment(&file, "prod"), "db"), &expected(url));
    assert_eq!(store(environment(&file, "dev"), "db"), &expected(StoreKind::Postgres));
    assert_eq!(store(environment(&file, "other"), "db"), &expected(StoreKind::Sqlite));
}

#[test]
fn a_sandbox_stands_in_for_an_external_below_production_only() {
    let file = shop();
    let name = ComponentName::new("payments").unwrap();
    let prod = environment(&file, "prod");
    assert!(!prod.services.contains_key(&name));
    let external = External {
        url: "https://payments.example/v1".to_owned(),
        address_as: Some("PAYMENTS_URL".to_owned()),
    };
    assert_eq!(prod.externals[&name], external);
    for below in ["staging", "dev"] {
        let below = environment(&file, below);
        assert!(below.externals.is_empty());
        let sandbox = &below.services[&name];
        let run: Vec<_> = sandbox.run.iter().map(filled).collect();
        assert_eq!(run, ["./shop", "payments", "--port", "<port>"]);
        assert_eq!(sandbox.address_as, external.address_as);
        assert_eq!((sandbox.http, sandbox.instances, sandbox.needs.len()), (true, 1, 0));
        assert_eq!(sandbox.artifact, Path::new("target/release"));
        assert_eq!(filled(&sandbox.env["WHERE"]), "<environment.name>");
        assert_eq!(sandbox.ready.get.as_deref(), Some("/readyz"));
        assert_eq!(sandbox.limits.memory, Some(64 * 1024 * 1024));
        assert_eq!(below.gateway.default.as_str(), "api");
    }
}

#[test]
fn without_a_sandbox_an_external_is_the_same_everywhere() {
    let file = between("[component.mail]\nexternal = \"http://mail.example:2525\"\nas = \"MAIL\"");
    for name in ["prod", "dev"] {
        let found = &environment(&file, name).externals[&ComponentName::new("mail").unwrap()];
        assert_eq!(
            (found.url.as_str(), found.address_as.as_deref()),
            ("http://mail.example:2525", Some("MAIL"))
        );
    }
}

#[test]
fn below_production_a_secret_that_a_sandbox_stands_in_for_is_not_read() {
    let file = parse(
        "[workload]\nname = \"w\"\n[component.api]\nrun = [\"./api\"]\nneeds = [\"pay\"]\n\
         [component.pay]\nexternal = \"secret:pay-url\"\nas = \"PAY\"\nsandbox.run = [\"./pay\"]\n",
    );
    let local = environment(&file, "local");
    assert_eq!(service(local, "pay").address_as.as_deref(), Some("PAY"));
    assert!(local.externals.is_empty());
}

#[test]
fn artifacts_are_of_services_and_of_stores_with_hooks() {
    let file = shop();
    let artifacts = |name, expected: &[(&str, &str)]| {
        let at = |(name, path): &(&str, &str)| (ComponentName::new(name).unwrap(), file.folder().join(path));
        assert_eq!(file.artifacts(environment(&file, name)), expected.iter().map(at).collect());
    };
    let built = "target/release";
    artifacts("prod", &[("api", built), ("db", built), ("mailer", "."), ("stock", ".")]);
    artifacts("dev", &[("api", built), ("db", built), ("mailer", "."), ("payments", built), ("stock", ".")]);
    let file = between("[component.db]\nstore = \"sqlite\"");
    let names: Vec<_> = file.artifacts(environment(&file, "prod")).into_keys().collect();
    assert_eq!(names, [ComponentName::new("api").unwrap()]);
}

#[test]
fn routes_are_those_listed_and_those_of_flows_that_none_of_them_fits() {
    let file = shop();
    let expected = [
        // Listed, with an objective of its own: what the flow asks does not count.
        ("GET /api/products", Some((0.01, Some(100)))),
        ("GET /assets/**", None),
        ("HEAD /api/products/*", Some((0.001, Some(150)))),
        ("POST /api/orders", None),
        ("DELETE /api/orders/*", None),
    ];
    let mut expected = expected.map(|(name, objective)| (name.to_owned(), objective)).to_vec();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(routes(environment(&file, "prod")), expected);
}

#[test]
fn a_route_takes_the_strictest_of_what_is_said_by_the_flows_it_is_in() {
    let file = between(
        "[route.\"GET /**\"]\n[route.\"GET /listed/**\"]\n[route.\"GET /listed/*/own\"]\nobjective.errors = \"5%\"\n\
         [flow.a]\nobjective.errors = \"2%\"\n\
         [[flow.a.step]]\nget = \"/listed/{uuid}?q={uuid}\"\n[[flow.a.step]]\nput = \"/x-{uuid}/y/{{z}}\"\n\
         [flow.b]\nobjective.p99 = \"9s\"\n\
         [[flow.b.step]]\nget = \"/listed/b/own\"\n[[flow.b.step]]\nput = \"/{user.id}/y/*\"\n[[flow.b.step]]\nput = \"/{uuid}/y/**\"\n\
         [flow.c]\nobjective = { errors = \"3%\", p99 = \"8s\" }\n\
         [[flow.c.step]]\nget = \"/listed\"\n[[flow.c.step]]\nget = \"/else\"\n\
         [flow.d]\n[[flow.d.step]]\nput = \"/{uuid}/y/a\"\n[[flow.d.step]]\npost = \"/?a=/b\"\n",
    );
    let expected = [
        // Fits everything, but what a narrower listed one fits is not its.
        ("GET /**", Some((0.03, Some(8000)))),
        ("GET /listed/**", Some((0.02, Some(8000)))),
        ("GET /listed/*/own", Some((0.05, None))),
        ("POST /", None),
        ("PUT /*/y/*", Some((0.02, Some(9000)))),
        // Not drawn into the one above: only listed routes take what they fit.
        ("PUT /*/y/a", None),
    ];
    let mut expected = expected.map(|(name, objective)| (name.to_owned(), objective)).to_vec();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(routes(environment(&file, "prod")), expected);
}

#[test]
fn affinity_is_the_gateways_own_cookie_or_as_written() {
    let of = |text: &str| environment(&between(text), "prod").gateway.affinity.clone();
    assert_eq!(of(""), Affinity::OwnCookie);
    assert_eq!(of("[gateway]\naffinity = \"cookie:__Host-Sid\""), Affinity::Cookie("__Host-Sid".to_owned()));
    assert_eq!(of("[gateway]\naffinity = \"header:X-User\""), Affinity::Header("x-user".to_owned()));
}

#[test]
fn a_release_travels_as_its_class_has_it_where_nothing_is_said() {
    let file = between("");
    for (name, class) in [("prod", Class::Production), ("dev", Class::Development)] {
        assert_eq!(environment(&file, name).policy, ReleasePolicy::of(class));
    }
    let file = shop();
    let seconds = Duration::from_secs;
    let said = |class| ReleasePolicy {
        keep_old: seconds(7200),
        step_time: seconds(10),
        max_excess_errors: 3,
        ..ReleasePolicy::of(class)
    };
    assert_eq!(environment(&file, "prod").policy, said(Class::Production));
    let staging =
        ReleasePolicy { bake: seconds(5), on_inconclusive: OnInconclusive::Continue, ..said(Class::Staging) };
    assert_eq!(environment(&file, "staging").policy, staging);
    assert_eq!(environment(&file, "dev").policy, staging, "dev is like staging");
    let file = between(
        "[release]\nshift = [1, 100]\nstep_time = \"0s\"\nbake = \"1m\"\nwarm_up = \"2s\"\nkeep_old = \"0s\"\n\
         min_requests = 7\nmax_excess_errors = 1\non_inconclusive = \"abort\"",
    );
    let expected = ReleasePolicy {
        shift: vec![1, 100],
        step_time: Duration::ZERO,
        bake: seconds(60),
        warm_up: seconds(2),
        keep_old: Duration::ZERO,
        min_requests: 7,
        max_excess_errors: 1,
        on_inconclusive: OnInconclusive::Abort,
    };
    assert_eq!(environment(&file, "dev").policy, expected);
}

#[test]
fn those_to_be_told_are_as_written_and_can_be_overridden() {
    let prod = environment(&shop(), "prod").notify.clone();
    assert_eq!(prod.command, ["./notify", "{literal}"]);
    assert_eq!(prod.webhook.as_deref(), Some("http://127.0.0.1:9000/releases"));
    let file = parse(
        "[workload]\nname = \"w\"\n[component.api]\nrun = [\"./api\"]\n[notify]\ncommand = [\"./n\"]\n\
         [environment.dev]\nclass = \"development\"\nnotify.command = []\nroute.\"GET /x\".objective.p99 = \"1s\"\n",
    );
    let dev = environment(&file, "dev");
    assert_eq!(dev.notify, Notify::default());
    assert_eq!(routes(dev), [("GET /x".to_owned(), Some((0.01, Some(1000))))]);
}
