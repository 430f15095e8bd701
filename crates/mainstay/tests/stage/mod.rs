//! Environments that tests of whole releases act in.
#![expect(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use serde_json::Value;
use std::process::{Child, Command, Stdio};
use testkit::{Environment, get, wait_until};

pub const MAINSTAY: &str = env!("CARGO_BIN_EXE_mainstay");

/// Where the tests crash a process is a moment; what surrounds it, a workload file.
pub struct Shop<'a> {
    /// Where the first agent kills itself.
    pub crash_at: Option<&'a str>,
    /// Keys of the component, as lines of the workload file.
    pub component: &'a str,
    /// More of the workload file.
    pub more: &'a str,
    /// Keys of `[release]`.
    pub policy: &'a str,
}

impl Shop<'_> {
    /// No steps, and the old stamp is kept.
    pub fn plain() -> Self {
        Self { crash_at: None, component: "", more: "", policy: "keep_old = \"1h\"" }
    }
}

/// A shop with two instances, up and serving v1.
pub fn shop(wanted: &Shop<'_>) -> Environment {
    let mut environment = Environment::new(MAINSTAY, "here");
    let address = environment.address;
    let Shop { crash_at, component, more, policy } = wanted;
    environment.write(
        "mainstay.toml",
        &format!(
            r#"
            [workload]
            name = "shop"
            [component.shop]
            run           = ["{MAINSTAY}", "demo-shop", "serve", "--port", "{{port}}", "--data", "{{data}}"]
            artifact      = "v1"
            instances     = 2
            ready         = {{ get = "/readyz", timeout = "10s" }}
            drain_timeout = "2s"
            {component}
            [flow.order]
            [[flow.order.step]]
            get    = "/api/products?page=1"
            save   = {{ sku = "$.items[0].sku" }}
            [[flow.order.step]]
            post   = "/api/orders"
            json   = {{ customer = "c", ref = "{{uuid}}", items = [{{ sku = "{{sku}}", quantity = 1 }}] }}
            expect = {{ status = 201 }}
            {more}
            [environment.here]
            class  = "staging"
            listen = {{ http = "{address}" }}
            [release]
            {policy}
            "#
        ),
    );
    for release in RELEASES {
        environment.write(&format!("{release}/release"), release);
    }
    if let Some(point) = crash_at {
        environment.variable("MAINSTAY_CRASH_AT", point);
    }
    environment.mainstay(&["up", "here"]).ok();
    environment
}

/// More of the workload file of a [`shop`]: orders are queued, and each is a saga over payments, orders and shipping.
/// `mishaps` is what goes wrong with `[payments, shipping]` on purpose, as in `refuse:3,undo-die:5`; empty: nothing.
pub fn checkout(mishaps: [&str; 2]) -> String {
    let service = |name: &str, mishaps: &str| {
        let variable = name.to_uppercase();
        format!(
            r#"
            [component.{name}]
            external = "http://{name}.example"
            as       = "{variable}_URL"
            [component.{name}.sandbox]
            run      = ["{MAINSTAY}", "demo-shop", "{name}", "--port", "{{port}}", "--data", "{{data}}"]
            artifact = "v1"
            ready    = {{ get = "/readyz" }}
            env      = {{ SHOP_MISHAPS = "{mishaps}" }}
            "#
        )
    };
    let services = service("payments", mishaps[0]) + &service("shipping", mishaps[1]);
    services
        + r#"
            [route."POST /api/orders"]
            queue           = { wait = "2s", order_by = "$.customer", idempotent = true }
            idempotency_key = "required"
            saga            = "checkout"
            [saga.checkout]
            answer = "record"
            [[saga.checkout.step]]
            name = "charge"
            post = "payments:/charges"
            json = { customer = "{body:$.customer}", ref = "{body:$.ref}", items = "{body:$.items}" }
            undo = { post = "payments:/charges/{charge:$.id}/refund" }
            [[saga.checkout.step]]
            name = "record"
            post = "shop:/api/orders"
            undo = { delete = "shop:/api/orders/{record:$.id}" }
            [[saga.checkout.step]]
            name = "ship"
            post = "shipping:/labels"
            json = { order = "{record:$.id}", ref = "{body:$.ref}" }
            undo = { delete = "shipping:/labels/{ship:$.id}" }
            "#
}

const RELEASES: &[&str] = &[
    "v1",
    "v2",
    "v3-broken",
    "v3-broken-schema",
    "v3-crash",
    "v3-errors",
    "v3-identical",
    "v3-leak",
    "v3-slow",
    "v3-slow-tail",
];

pub fn release(environment: &Environment, artifact: &str) -> testkit::Ran {
    environment.mainstay(&["--json", "release", "here", "--artifact", artifact, "--name", artifact])
}

/// The version of the shop that answers users.
pub fn serving(environment: &Environment) -> String {
    let answer = get(environment.address, "/healthz").expect("somebody serves");
    let line = answer.head.lines().find(|line| line.to_lowercase().starts_with("x-shop-release:"));
    line.expect("the shop says its release").split_once(": ").expect("a header").1.to_owned()
}

/// What holds whenever nothing is under way: one active stamp, known to the agent and to the gateway, ready,
/// and no other stamp but one that is kept.
pub fn assert_settled(environment: &Environment) -> Value {
    wait_until("the environment settles", || {
        let status = environment.status()?;
        let stamps = status["stamps"].as_array()?;
        let active = stamps.iter().filter(|stamp| stamp["role"] == "active").count();
        let others = stamps.iter().filter(|stamp| stamp["role"] != "active");
        let settled = active == 1
            && others.into_iter().all(|stamp| stamp["role"] == "previous")
            && status["active_ready"] == true
            && status["gateway"]["active"] == status["active"]
            && status["gateway"]["candidate"].is_null();
        settled.then_some(status)
    })
}

/// Whether the agent that was to crash has done so.
pub fn agent_was_killed(environment: &Environment) -> bool {
    let log = environment.state().join("logs/keeper.log");
    std::fs::read_to_string(log).is_ok_and(|log| log.contains("the agent (pid") && log.contains("signal: 9"))
}

pub fn kill(pid: &Value) {
    let pid = pid.as_u64().expect("a process").to_string();
    let killed = Command::new("kill").args(["-9", &pid]).status().expect("kill can be run");
    assert!(killed.success());
}

/// Longer than a load test is ever needed here: it is told to stop.
const FOR_LONG: &str = "10m";

/// Users who play the flows, one of which has a ledger, and who check afterwards that each order is there once.
pub struct Load(Child);

impl Load {
    /// Starts it and waits until some were served.
    pub fn on(environment: &Environment) -> Self {
        let arguments = ["--json", "load", "here", "--rate", "50/s", "--for", FOR_LONG];
        let mut command = environment.command(&arguments);
        let load = Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be run"));
        more_are_served(environment);
        load
    }

    /// Ends it, as Ctrl-C does, and gives its report: no order is lost, none there twice, each was looked up.
    pub fn stop(mut self) -> Value {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-INT", &pid]).status().expect("kill can be run");
        assert!(told.success());
        let stdout = self.0.stdout.take().expect("it is piped");
        let report: Value = serde_json::from_reader(stdout).expect("a report");
        self.0.wait().expect("it can be waited for");
        let ledger = &report["ledger"];
        assert!(ledger["acknowledged"].as_u64().is_some_and(|orders| orders > 10), "{report}");
        for never in ["lost", "duplicated", "unverified"] {
            assert_eq!(ledger[never], 0, "{never}: {report}");
        }
        report
    }

    /// The same, and every single request was served.
    pub fn all_were_served(self) {
        let report = self.stop();
        assert_eq!(report["failed"], 0, "{report}");
        assert_eq!(report["outcomes"]["no_socket"], 0, "{report}");
        assert_eq!(report["ledger"]["unknown"], 0, "{report}");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It has ended, unless the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until so many more were served that there is an order among them, whatever chance does.
pub fn more_are_served(environment: &Environment) {
    let before = wait_until("the gateway is there", || served(environment));
    wait_until("users come", || served(environment).filter(|served| *served > before + 100));
}

/// The requests that the gateway has answered.
fn served(environment: &Environment) -> Option<u64> {
    environment.status()?["gateway"]["requests"].as_u64()
}
