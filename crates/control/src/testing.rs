//! What tests of this room share.

use model::name::{ComponentName, EnvironmentName, WorkloadName};
use model::workload::{
    Affinity, Class, Configuration, GatewayLimits, GatewaySettings, Listen, Notify, ReleasePolicy,
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
        gateway: GatewaySettings {
            default: ComponentName::new("api").expect("a name"),
            hosts: Vec::new(),
            access_log: true,
            limits: GatewayLimits::default(),
            routes: Vec::new(),
            affinity: Affinity::default(),
        },
        flows: BTreeMap::new(),
        policy: ReleasePolicy::default(),
        notify: Notify::default(),
    }
}
