//! What tests of this room share.

use api::gateway::{Applied, GatewayState, InstanceLoad, Measures, PutTable};
use axum::Json;
use axum::http::StatusCode;
use axum::routing::{get, put};
use model::name::{ComponentName, EnvironmentName, WorkloadName};
use model::workload::{Class, Configuration, GatewaySettings, Listen, Notify, ReleasePolicy};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A configuration with nothing in it.
pub(crate) fn configuration() -> Configuration {
    Configuration {
        workload: WorkloadName::new("w").expect("a name"),
        environment: EnvironmentName::new("here").expect("a name"),
        class: Class::Staging,
        listen: Listen { http: ([127, 0, 0, 1], 8080).into(), admin: None, trusted_proxies: Vec::new() },
        services: BTreeMap::new(),
        stores: BTreeMap::new(),
        externals: BTreeMap::new(),
        gateway: GatewaySettings::of(ComponentName::new("api").expect("a name")),
        flows: BTreeMap::new(),
        policy: ReleasePolicy::default(),
        notify: Notify::default(),
    }
}

/// A gateway as far as the agent sees it.
#[derive(Debug, Default)]
pub(crate) struct Gateway {
    /// What it says of its instances.
    pub(crate) instances: Vec<InstanceLoad>,
    /// What it says to have measured. None: it has no answer.
    pub(crate) measures: Option<Measures>,
}

/// Listens at `socket` until the runtime ends, and says what it is told to. It takes on every table.
pub(crate) fn gateway(socket: &Path) -> Arc<Mutex<Gateway>> {
    let listener = tokio::net::UnixListener::bind(socket).expect("the folder is there");
    let shared = Arc::new(Mutex::new(Gateway::default()));
    let (told, measured) = (Arc::clone(&shared), Arc::clone(&shared));
    let applied = |Json(_): Json<PutTable>| async {
        Json(Applied { revision: 1, not_stored: None, closed: Vec::new() })
    };
    let state = move || async move {
        Json(GatewayState {
            v: api::PROTOCOL_VERSION,
            pid: 1,
            revision: 1,
            active: None,
            candidate: None,
            weight: 0,
            watched: None,
            in_flight: 0,
            connections: 0,
            requests: 0,
            failed: 0,
            closed: Vec::new(),
            instances: told.lock().expect("nobody panics").instances.clone(),
            queue: None,
        })
    };
    let measures = move || async move {
        let measures = measured.lock().expect("nobody panics").measures.clone();
        measures.map(Json).ok_or(StatusCode::SERVICE_UNAVAILABLE)
    };
    let routes = axum::Router::new()
        .route("/v1/table", put(applied))
        .route("/v1/state", get(state))
        .route("/v1/measures", get(measures));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    shared
}
