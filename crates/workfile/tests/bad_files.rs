//! Files that are wrong, and the picture their author gets. The snapshots are the specification: read them.

use miette::{GraphicalReportHandler, GraphicalTheme};
use model::workload::ROUTES_LIMIT;
use std::path::Path;
use workfile::{FILE_LIMIT, ReadError};

/// Before the text of every case whose text is about something else.
const BASE: &str = "[workload]\nname = \"shop\"\n\n[component.api]\nrun = [\"./shop\", \"{port}\"]\n\n";

fn picture(error: &ReadError) -> String {
    let mut picture = format!("{error}\n\n");
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut picture, error)
        .expect("a report goes into a string");
    let lines: Vec<_> = picture.lines().map(str::trim_end).collect();
    lines.join("\n")
}

fn refused(text: &str) -> String {
    match workfile::parse("mainstay.toml", text, Path::new("/")) {
        Ok(file) => panic!("this was accepted: {file:?}\n{text}"),
        Err(error) => picture(&error),
    }
}

/// Cases whose text is the whole file.
const WHOLE: &[(&str, &str)] = &[
    ("empty_file", ""),
    ("missing_name", "[workload]\n\n[component.api]\nrun = [\"./shop\"]\n"),
    ("no_component", "[workload]\nname = \"shop\"\n"),
    ("not_a_name", "[workload]\nname = \"My Shop\"\n\n[component.API]\nrun = [\"./shop\"]\n"),
    ("missing_run", "[workload]\nname = \"shop\"\n\n[component.api]\ninstances = 2\n"),
    (
        "empty_run",
        "[workload]\nname = \"shop\"\n\n[component.api]\nrun = []\n\n[component.db]\nrun = [\"\"]\n",
    ),
    (
        "two_components_of_one_name",
        "[workload]\nname = \"shop\"\n\n[component.api]\nrun = [\"./a\"]\n\n[component.db]\nrun = [\"./b\"]\n\n[component.api]\nrun = [\"./c\"]\n",
    ),
    (
        "one_key_twice",
        "[workload]\nname = \"shop\"\n\n[component.api]\nrun = [\"./a\"]\ninstances = 1\nrun = [\"./b\"]\n",
    ),
    ("not_toml", "[workload]\nname = shop\n\n[component.api\nrun = [\"./a\"]\n"),
    (
        "needs_cycle",
        "[workload]\nname = \"shop\"\n\n[component.a]\nrun = [\"./a\"]\nneeds = [\"b\"]\n\n[component.b]\nrun = [\"./b\"]\nneeds = [\"c\"]\n\n[component.c]\nrun = [\"./c\"]\nneeds = [\"b\"]\n\n[gateway]\ndefault = \"a\"\n",
    ),
    (
        "who_gets_the_requests",
        "[workload]\nname = \"shop\"\n\n[component.api]\nrun = [\"./a\"]\n\n[component.web]\nrun = [\"./b\"]\n",
    ),
    (
        "nobody_gets_the_requests",
        "[workload]\nname = \"shop\"\n\n[component.db]\nstore = \"sqlite\"\n\n[component.mail]\nrun = [\"./mail\"]\nhttp = false\n",
    ),
    (
        "one_variable_twice",
        "[workload]\nname = \"shop\"\n\n[component.api]\nrun = [\"./a\"]\nneeds = [\"stock\", \"mail\"]\nenv = { MAIL_URL = \"x\" }\n\n[component.stock]\nrun = [\"./b\"]\nas = \"MAIL_URL\"\n\n[component.mail]\nrun = [\"./c\"]\nas = \"1URL\"\n\n[gateway]\ndefault = \"api\"\n",
    ),
];

/// Cases that follow [`BASE`].
const AFTER_BASE: &[(&str, &str)] = &[
    ("unknown_key_in_the_file", "[componnet.db]\nrun = [\"./db\"]\n"),
    ("unknown_key_in_a_component", "[component.db]\nrun = [\"./db\"]\ninstnaces = 2\n"),
    (
        "unknown_key_three_levels_down",
        "[component.db]\nrun = [\"./db\"]\nready = { get = \"/\", tiemout = \"1s\" }\n",
    ),
    ("unknown_key_in_a_step", "[[flow.browse.step]]\nget = \"/\"\nexpects = { status = 200 }\n"),
    ("unknown_key_in_a_dotted_key", "[gateway]\nlimits.boddy = \"1MiB\"\n"),
    (
        "keys_of_later_versions",
        "live = { get = \"/healthz\" }\n\n[route.\"POST /api/orders\"]\ninvalidates = [\"/api/products\"]\nprevious_stamp = true\ncache = { ttl = \"5s\" }\n\n[search.products]\nroute = \"GET /api/search\"\n\n[environment.prod]\nclass = \"production\"\nevidence = [\"smoke\"]\nttl = \"2h\"\n",
    ),
    (
        "two_kinds_at_once",
        "store = \"sqlite\"\n\n[component.db]\nstore = \"postgres\"\nurl = \"postgres://h/d\"\n\n[component.pay]\nexternal = \"http://pay.example\"\nas = \"PAY\"\nrun = [\"./pay\"]\n\n[component.both]\nexternal = \"http://pay.example\"\nstore = \"sqlite\"\n",
    ),
    (
        "no_kind",
        "\n[component.db]\nschema = \"1\"\n\n[environment.prod]\nclass = \"production\"\ncomponent.db.store = \"sqlite\"\n\n[environment.dev]\nclass = \"development\"\n",
    ),
    (
        "keys_of_another_kind",
        "expand = [\"./x\"]\nsandbox = { run = [\"./x\"] }\n\n[component.db]\nstore = \"sqlite\"\nhttp = false\ninstances = 2\nneeds = [\"api\"]\nready = { get = \"/\" }\nlimits = { open_files = 100 }\ndrain_timeout = \"1s\"\n\n[component.pay]\nexternal = \"http://pay.example\"\nas = \"PAY\"\nartifact = \"x\"\nenv = { A = \"b\" }\nschema = \"1\"\nhook_timeout = \"1s\"\ncontract = [\"./x\"]\n",
    ),
    (
        "workers",
        "needs = [\"mailer\"]\n\n[component.mailer]\nrun = [\"./mail\", \"--port\", \"{port}\"]\nhttp = false\nas = \"MAILER_URL\"\nready = { get = \"/\" }\nenv = { P = \"{port}\" }\n\n[gateway]\ndefault = \"mailer\"\n",
    ),
    (
        "stores",
        "\n[component.a]\nurl = \"\"\n\n[component.b]\nstore = \"sqlite\"\nexpand = [\"./x\", \"{port}\"]\ncontract = [\"\"]\nenv = { P = \"{prot}\", DB = \"1\" }\nas = \"DB\"\nhook_timeout = \"0s\"\nschema = \"3-2\"\n\n[component.c]\nurl = \"secret:database-url\"\nschema = \"v1\"\n\n[component.d]\nurl = \"db.example:5432\"\nschema = \"1-2-3\"\n\n[component.e]\nurl = \"postgres://{data}/x\"\nschema = \"1-99999999999\"\n",
    ),
    ("store_of_an_unknown_kind", "\n[component.a]\nstore = \"mysql\"\nschema = 3\n"),
    (
        "externals",
        "\n[component.a]\nexternal = \"http://a.example\"\n\n[component.b]\nexternal = \"ftp://b.example\"\nas = \"B\"\nsandbox = { run = [], env = { X = \"{nothing}\" }, ready = { timeout = \"0s\" }, limits = { memory = \"1KiB\" } }\n\n[component.c]\nexternal = \"http://c.example:99999/\"\nas = \"1C\"\n\n[component.d]\nexternal = \"http://d.example\"\nas = \"D\"\n",
    ),
    (
        "sandbox_without_a_program",
        "\n[component.d]\nexternal = \"http://d.example\"\nas = \"D\"\nsandbox = { instances = 2 }\n",
    ),
    (
        "externals_that_are_secret",
        "\n[component.pay]\nexternal = \"secret:pay\"\nas = \"PAY\"\nsandbox = { run = [\"./pay\"] }\n\n[component.ship]\nexternal = \"secret:ship\"\nas = \"SHIP\"\n\n[environment.prod]\nclass = \"production\"\n\n[environment.dev]\nclass = \"development\"\n",
    ),
    (
        "one_variable_twice_over_kinds",
        "needs = [\"db\", \"pay\"]\n\n[component.db]\nstore = \"sqlite\"\nas = \"URL\"\n\n[component.pay]\nexternal = \"http://pay.example\"\nas = \"URL\"\n",
    ),
    (
        "requests_to_what_has_none",
        "\n[component.db]\nstore = \"sqlite\"\n\n[component.pay]\nexternal = \"http://pay.example\"\nas = \"PAY\"\n\n[gateway]\ndefault = \"db\"\n\n[environment.a]\nclass = \"production\"\n\n[environment.b]\nclass = \"production\"\ngateway.default = \"pay\"\n",
    ),
    (
        "routes",
        "\n[route.\"GET\"]\n[route.\"get /a\"]\n[route.\"FETCH /a\"]\n[route.\"GET a\"]\n[route.\"GET  /a\"]\n[route.\"GET /a/**/b\"]\n[route.\"GET /a*/b\"]\n[route.\"GET /a/{id}\"]\n[route.\"GET /a?b\"]\n[route.\"GET /a b\"]\n[route.\"GET /***\"]\n[route.\"POST /a\"]\nobjective = { errors = \"x\", p99 = \"0s\" }\n",
    ),
    (
        "traces",
        "\n[gateway]\ntraces = { endpoint = \"https://otel.example\", share = \"2\" }\n\n[environment.a]\nclass = \"staging\"\ngateway.traces.endpoint = \"http://127.0.0.1:4318/?a=b\"\n\n[environment.b]\nclass = \"staging\"\ngateway.traces = { endpoint = \"127.0.0.1:4318\", share = \"101%\" }\n\n[environment.c]\nclass = \"staging\"\ngateway.traces = { endpoint = \"ftp://a\" }\n\n[environment.z]\nclass = \"staging\"\n",
    ),
    ("traces_to_nowhere", "\n[gateway]\ntraces = { share = \"100%\" }\n"),
    (
        "queued_routes",
        "\n[route.\"GET /a\"]\nqueue = true\n\n[route.\"POST /b\"]\nsaga = \"x\"\nprincipal = \"header:a\"\nidempotency_key = \"required\"\n\n[route.\"POST /c\"]\nqueue = false\nsaga = \"x\"\n\n[route.\"POST /d\"]\nqueue = { wait = \"61s\", order_by = \"customer\", probe = \"orders\", unknown_hold = \"x\", max_age = \"0s\", body = \"65MiB\", attempt_timeout = \"0s\" }\nprincipal = \"authorization\"\nsaga = \"chekout\"\n\n[route.\"POST /e\"]\nqueue = { probe = \"/orders?ref={body:ref}#x\" }\nprincipal = \"cookie:a b\"\nsaga = \"x\"\n\n[route.\"PUT /f\"]\nqueue = { probe = \"/orders/{charge:$.id}\" }\nprincipal = \"claim:\"\n\n[saga.checkout]\nstep = [{ name = \"a\", post = \"api:/a\" }]\n",
    ),
    (
        "queued_routes_of_the_wrong_shape",
        "\n[route.\"POST /a\"]\nqueue = \"yes\"\nidempotency_key = \"requierd\"\n\n[route.\"POST /b\"]\nqueue = { attempts = 0, in_flight = \"accept\", idempotent = 1, wiat = \"1s\" }\nprincipal = 1\n\n[gateway]\nqueue = { jobs = 0, concurrency = 0, retain = \"1d\" }\n\n[[saga.x.step]]\nget = \"api:/a\"\n\n[[saga.x.step]]\nname = \"a\"\npost = \"api:/a\"\nundo = { post = \"api:/a\", undo = true }\n",
    ),
    (
        "queue_limits",
        "\n[gateway]\nqueue = { bytes = \"1KiB\", retention = \"23h\", longest_pause = \"0s\" }\n\n[environment.a]\nclass = \"staging\"\n\n[environment.b]\nclass = \"staging\"\ngateway.queue = { bytes = \"1\", retention = \"x\", longest_pause = \"1s\" }\n",
    ),
    (
        "sagas",
        "\n[component.db]\nstore = \"sqlite\"\n\n[component.mailer]\nrun = [\"./mail\"]\nhttp = false\n\n[component.pay]\nexternal = \"http://pay.example\"\nas = \"PAY\"\n\n[saga.none]\n\n[saga.whom]\nanswer = \"recrod\"\n\n[[saga.whom.step]]\nname = \"record\"\npost = \"pya:/charges\"\nundo = { delete = \"db:/charges\" }\n\n[[saga.whom.step]]\nname = \"mail\"\nput = \"mailer:/mails\"\n\n[[saga.whom.step]]\nname = \"path\"\npost = \"pay/charges\"\nundo = { patch = \"pay:/charges/a b\" }\n\n[[saga.whom.step]]\nname = \"record\"\n\n[[saga.whom.step]]\nname = \"body\"\npost = \"pay:/\"\ndelete = \"pay:/\"\nundo = {}\nattempts = 5\ntimeout = \"0s\"\nprobe = \"/{record:$.id}\"\n\n[[saga.whom.step]]\nname = \"No Name\"\npost = \"pay:/\"\n",
    ),
    (
        "sagas_that_read_what_is_not_there",
        "\n[[saga.x.step]]\nname = \"charge\"\npost = \"api:/charges/{record:$.id}/{charge:$.id}\"\njson = { a = \"{body:items}\", b = [\"{body}\", \"{bdoy:$.x}\", { c = \"{charge:$.id}\" }], d = \"{uuid}\", e = \"{\" }\nundo = { post = \"api:/charges/{charge:$.id}/refund\", json = { why = \"{record:$.why}\", key = \"{key}\" } }\n\n[[saga.x.step]]\nname = \"record\"\npost = \"api:/orders?charge={charge:$.id[}&key={key}}\"\njson = { charge = \"{charge:$}\", chrage = \"{chrage:$.id}\" }\n",
    ),
    ("one_route_twice", "\n[route.\"GET /a\"]\n[route.'GET /a']\n"),
    (
        "affinity",
        "\n[gateway]\naffinity = \"session\"\n\n[environment.z]\nclass = \"staging\"\n\n[environment.a]\nclass = \"staging\"\ngateway.affinity = \"cookie:a b\"\n\n[environment.b]\nclass = \"staging\"\ngateway.affinity = \"header:\"\n",
    ),
    (
        "release_policy",
        "\n[release]\nshift = [10, 50]\nstep_time = \"10\"\n\n[environment.z]\nclass = \"staging\"\n\n[environment.a]\nclass = \"staging\"\nrelease.shift = [10, 10, 100]\n\n[environment.b]\nclass = \"staging\"\nrelease.shift = []\n\n[environment.c]\nclass = \"staging\"\nrelease.shift = [100, 50]\n",
    ),
    (
        "release_policy_out_of_range",
        "\n[release]\nshift = [0, 101]\nmax_excess_errors = 0\non_inconclusive = \"abrot\"\nmin_requests = -1\n",
    ),
    (
        "notify",
        "\n[notify]\ncommand = [\"\"]\nwebhook = \"https://hooks.example/x\"\n\n[environment.z]\nclass = \"staging\"\n\n[environment.a]\nclass = \"staging\"\nnotify = { command = [\"a\\u0000\"], webhook = \"hooks.example\" }\n",
    ),
    (
        "memory",
        "limits = { memory = \"256\" }\n\n[component.b]\nrun = [\"./b\"]\nlimits = { memory = \"10KiB\" }\n\n[gateway]\ndefault = \"b\"\n",
    ),
    (
        "wrong_types",
        "instances = \"2\"\nneeds = \"db\"\ndrain_timeout = 30\nenv = { N = 1 }\nready = \"/readyz\"\n\n[gateway]\naccess_log = \"yes\"\ndefault = 1979-05-27\n\n[[flow.browse.step]]\nget = 1.5\n",
    ),
    (
        "numbers_out_of_range",
        "instances = 0\nlimits = { open_files = 99999999999999999999 }\n\n[gateway.limits]\nin_flight = -1\n",
    ),
    ("class_misspelt", "[environment.prod]\nclass = \"producton\"\n"),
    ("class_missing", "[environment.prod]\nlisten = { http = \"127.0.0.1:1\" }\n"),
    (
        "unknown_need",
        "[component.shop]\nrun = [\"./x\"]\nneeds = [\"apis\"]\n\n[gateway]\ndefault = \"spoh\"\n",
    ),
    (
        "braces",
        "env = { A = \"{\", B = \"}\", C = \"x{prt}\", D = \"{}\", E = \"tab\\t{nothing.like.it}\", F = 'l{dta}' }\n",
    ),
    ("secrets", "env = { KEY = \"secret:key\" }\n"),
    (
        "durations_sizes_and_shares",
        "drain_timeout = \"30\"\nready = { timeout = \"0s\" }\n\n[gateway]\nlimits = { body = \"64mb\", idle_timeout = \"1000d\" }\n\n[flow.browse]\nobjective = { errors = \"0.1\", p99 = \"fast\" }\n\n[[flow.browse.step]]\nget = \"/\"\n\n[flow.other]\nobjective = { errors = \"101%\" }\n\n[[flow.other.step]]\nget = \"/\"\n\n[release]\nkeep_old = \"10 m\"\n",
    ),
    (
        "json_path",
        "[flow.browse]\nledger = { ref = \"{uuid}\", confirm = { get = \"/{uuid}\", count = \"items\" } }\n\n[[flow.browse.step]]\nget = \"/\"\nsave = { a = \"$.items[0\", uuid = \"$.a\", \"b c\" = \"$.b\" }\n",
    ),
    (
        "saved_name_used_before_it_is_saved",
        "[[flow.browse.step]]\nget = \"/{sku}\"\n\n[[flow.browse.step]]\nget = \"/{item}\"\nsave = { sku = \"$.sku\", item = \"$.item\" }\n\n[[flow.browse.step]]\npost = \"/{skus}\"\njson = { list = [\"{sku}\", \"{items}\"] }\n",
    ),
    (
        "steps_that_are_no_request",
        "[flow.empty]\n\n[[flow.browse.step]]\nexpect = { status = 200 }\n\n[[flow.browse.step]]\nget = \"/\"\npost = \"/\"\n\n[[flow.browse.step]]\nget = \"/\"\njson = {}\n\n[[flow.browse.step]]\nget = \"api/products\"\n\n[[flow.browse.step]]\nget = \"/a b#c\"\nheaders = { \"a b\" = \"c\", d = \"e\\n\" }\n",
    ),
    (
        "json_that_is_none",
        "[[flow.browse.step]]\npost = \"/\"\njson = { at = 1979-05-27, big = 9223372036854775808, n = [nan] }\n",
    ),
    (
        "listen",
        "[environment.prod]\nclass = \"production\"\nlisten = { http = \"8080\", admin = \"127.0.0.1:8080\", trusted_proxies = [\"10.0.0.0/8\"] }\n",
    ),
    ("hosts", "[gateway]\nhosts = [\"https://shop.example\", \"shop.example:80\", \"\", \"[::1\"]\n"),
    (
        "like_in_a_circle",
        "[environment.a]\nlike = \"b\"\n\n[environment.b]\nlike = \"c\"\n\n[environment.c]\nlike = \"b\"\n\n[environment.d]\nlike = \"aa\"\n",
    ),
    (
        "overlay_with_a_wrong_value",
        "[environment.prod]\nclass = \"production\"\n\n[environment.dev]\nclass = \"development\"\nlike = \"prod\"\n\n[environment.dev.component.api]\ndrain_timeout = \"1 s\"\nneeds = [\"api\"]\nenv = { X = \"{prot}\" }\n\n[environment.dev.gateway]\ndefault = \"app\"\n",
    ),
    (
        "overlay_with_a_wrong_shape",
        "[environment.dev]\nclass = \"development\"\n\n[environment.dev.component.api]\ninstance = 1\n\n[environment.dev.gateway]\nlimits = { body = 1 }\n",
    ),
    (
        "overlay_of_an_unknown_component",
        "[environment.dev]\nclass = \"development\"\n\n[environment.dev.component.apo]\ninstances = 1\n",
    ),
];

#[test]
fn every_wrong_file_gets_its_picture() {
    for (name, text) in WHOLE {
        insta::assert_snapshot!(*name, refused(text));
    }
    for (name, text) in AFTER_BASE {
        insta::assert_snapshot!(*name, refused(&format!("{BASE}{text}")));
    }
}

#[test]
fn the_base_of_the_cases_is_right() {
    workfile::parse("mainstay.toml", BASE, Path::new("/")).unwrap();
}

#[test]
fn a_finding_knows_its_place() {
    let text = format!(
        "{BASE}# é\n[component.\"db\"]\nrun = [\"./db\"]\nenv = {{ \"É\" = \"1\", B = \"é{{prt}}\" }}\n[gateway]\ndefault = \"api\"\n"
    );
    let error = workfile::parse("dir/mainstay.toml", &text, Path::new("/")).unwrap_err();
    let places: Vec<_> = error.findings().iter().map(|f| (f.line(), f.column(), f.message())).collect();
    assert_eq!(
        places,
        [(10, 9, "\"É\" is not the name of a variable"), (10, 26, "`{prt}` means nothing here")]
    );
    assert_eq!(error.to_string(), "dir/mainstay.toml:10:9: \"É\" is not the name of a variable (and 1 more)");
}

#[test]
fn what_environments_share_is_said_once() {
    let environments: String = (0..9).map(|n| format!("[environment.e{n}]\nclass = \"staging\"\n")).collect();
    let text = format!("{BASE}drain_timeout = \"x\"\n{environments}");
    assert_eq!(workfile::parse("f", &text, Path::new("/")).unwrap_err().findings().len(), 1);
}

#[test]
fn a_file_full_of_errors_names_only_so_many() {
    let keys: String = (0..200).map(|n| format!("wrong{n} = 1\n")).collect();
    let error = workfile::parse("f", &format!("{keys}{BASE}"), Path::new("/")).unwrap_err();
    assert_eq!(error.findings().len(), workfile::FINDINGS_LIMIT);
}

#[test]
fn too_many_components_or_environments_are_refused() {
    let components: String = (0..64).map(|n| format!("[component.c{n}]\nrun = [\"x\"]\n")).collect();
    let error =
        workfile::parse("f", &format!("{BASE}{components}[gateway]\ndefault = \"api\"\n"), Path::new("/"))
            .unwrap_err();
    assert_eq!(error.findings()[0].message(), "65 components; at most 64");
    let environments: String =
        (0..65).map(|n| format!("[environment.e{n}]\nclass = \"staging\"\n")).collect();
    let error = workfile::parse("f", &format!("{BASE}{environments}"), Path::new("/")).unwrap_err();
    assert_eq!(error.findings()[0].message(), "65 environments; at most 64");
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("mainstay.toml");
    std::fs::write(&path, bytes).expect("a file can be written");
    (folder, path)
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = workfile::read(Path::new("/nowhere/mainstay.toml")).unwrap_err();
    insta::assert_snapshot!("missing_file", picture(&error));
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let fits = format!("{BASE}#{}", "x".repeat(FILE_LIMIT - BASE.len() - 1));
    let (_folder, path) = written(fits.as_bytes());
    workfile::read(&path).unwrap();
    let (_folder, path) = written(format!("{fits}x").as_bytes());
    let error = workfile::read(&path).unwrap_err();
    assert!(matches!(&error, ReadError::TooLarge { .. }), "{error}");
    let expected = format!("{} is larger than a workload file may be (1 MiB)", path.display());
    assert_eq!(error.to_string(), expected);
    assert!(matches!(
        workfile::parse("f", &format!("{fits}x"), Path::new("/")),
        Err(ReadError::TooLarge { .. })
    ));
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_with_the_place() {
    let (_folder, path) = written(b"[workload]\nname = \"\xc3\xa9\xe9\"\n");
    let error = workfile::read(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("{}:2:10: the byte 0xe9 is not UTF-8", path.display()));
    assert!(picture(&error).contains("save the file as UTF-8"));
}

#[test]
fn too_many_routes_are_refused() {
    let listed = |count: usize| (0..count).map(|n| format!("[route.\"GET /r{n}\"]\n")).collect::<String>();
    let flow = "[[flow.f.step]]\npost = \"/r\"\n[[flow.f.step]]\nget = \"/r1\"\n";
    workfile::parse("f", &format!("{BASE}{}{flow}", listed(ROUTES_LIMIT - 1)), Path::new("/")).unwrap();
    let error =
        workfile::parse("f", &format!("{BASE}{}{flow}", listed(ROUTES_LIMIT)), Path::new("/")).unwrap_err();
    let message = "1001 routes, 1000 listed and the rest from flows; at most 1000";
    assert_eq!(error.findings()[0].message(), message);
}
