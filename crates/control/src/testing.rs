//! What tests of this room share.

use model::name::{ComponentName, EnvironmentName, WorkloadName};
use model::workload::{
    Class, Configuration, GatewaySettings, Listen, Notify, ReleasePolicy,
};
use std::collections::BTreeMap;

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
