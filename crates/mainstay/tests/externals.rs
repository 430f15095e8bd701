//! What other people run: reached at its address in production, stood in for below it.

use serde_json::Value;
use testkit::Environment;

const MAINSTAY: &str = env!("CARGO_BIN_EXE_mainstay");

/// An environment of this class whose service needs an external with a sandbox. Gives its status and the variables
/// of the service.
fn up(class: &str) -> (Environment, Value, Vec<String>) {
    let environment = Environment::new(MAINSTAY, "here");
    environment.write("site/index.html", "x");
    let address = environment.address;
    environment.write(
        "mainstay.toml",
        &format!(
            r#"
            [workload]
            name = "w"
            [component.front]
            run      = ["python3", "-m", "http.server", "{{port}}", "--bind", "127.0.0.1"]
            artifact = "site"
            needs    = ["payments"]
            [component.payments]
            external = "https://payments.example/api"
            as       = "PAYMENTS_URL"
            sandbox  = {{ run = ["python3", "-m", "http.server", "{{port}}", "--bind", "127.0.0.1"], artifact = "site" }}
            [environment.here]
            class  = "{class}"
            listen = {{ http = "{address}" }}
            "#
        ),
    );
    environment.mainstay(&["up", "here"]).ok();
    let status = environment.status().expect("it is up");
    let instances = status["stamps"][0]["instances"].as_array().cloned().unwrap_or_default();
    let front = instances.iter().find(|instance| instance["component"] == "front").expect("a front");
    let told = std::fs::read(format!("/proc/{}/environ", front["pid"])).expect("the front runs");
    let told = String::from_utf8_lossy(&told).split('\0').map(str::to_owned).collect();
    (environment, status, told)
}

#[test]
fn in_production_a_service_is_told_the_address() {
    let (_environment, status, told) = up("production");
    assert!(told.contains(&"PAYMENTS_URL=https://payments.example/api".to_owned()), "{told:?}");
    assert_eq!(status["stamps"][0]["instances"].as_array().map(Vec::len), Some(1), "{status}");
}

#[test]
fn below_production_a_sandbox_stands_in() {
    let (_environment, status, told) = up("staging");
    let instances = status["stamps"][0]["instances"].as_array().cloned().unwrap_or_default();
    let sandbox = instances.iter().find(|instance| instance["component"] == "payments").expect("a sandbox");
    assert_eq!(sandbox["ready"], true, "{status}");
    let expected = format!("PAYMENTS_URL=http://127.0.0.1:{}", sandbox["port"]);
    assert!(told.contains(&expected), "{expected} is not in {told:?}");
}
