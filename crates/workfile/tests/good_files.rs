//! Files that are right, and what they mean.

use model::flow::{JsonTemplate, Method};
use model::name::{ComponentName, EnvironmentName, FlowName};
use model::workload::{Class, Configuration, Ready, Service};
use std::borrow::Cow;
use std::path::Path;
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
    assert_eq!(api.needs, [ComponentName::new("stock").unwrap()]);
    let env: Vec<_> = api.env.iter().map(|(name, value)| (name.as_str(), filled(value))).collect();
    let expected = [("BRACES", "{}"), ("RELEASE", "<release.id>"), ("RUST_LOG", "info")];
    assert_eq!(env, expected.map(|(name, value)| (name, value.to_owned())));
    assert_eq!(api.ready, Ready { get: Some("/readyz".to_owned()), timeout: Duration::from_secs(20) });
    assert_eq!(api.limits.open_files, Some(1024));
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
