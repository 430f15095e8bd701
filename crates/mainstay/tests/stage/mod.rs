//! Environments that tests of whole releases act in.
#![expect(unreachable_pub, reason = "each test program uses a part of it")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it")]

use serde_json::Value;
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
    let killed = std::process::Command::new("kill").args(["-9", &pid]).status().expect("kill can be run");
    assert!(killed.success());
}
