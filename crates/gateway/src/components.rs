//! What sagas of a stamp call besides the service that gets requests: other services of the stamp, and externals.

use crate::courier::External;
use crate::routes::{Instance, Target, next_key};
use api::gateway::{TableInstance, TableUpstream};
use model::name::ComponentName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// By name.
pub(crate) type Components = BTreeMap<ComponentName, Component>;

/// One of them.
#[derive(Debug)]
pub(crate) enum Component {
    /// Its ready instances.
    Service(Vec<Arc<Instance>>),
    /// Run by others.
    External(Arc<Remote>),
    /// Its URL cannot be used, and why.
    Unusable(String),
}

/// An external, and what its idle connections are kept by.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) key: u64,
    pub(crate) external: External,
}

/// Those of a stamp. Externals that stamps `before` have too go on being the same.
pub(crate) fn next(
    upstreams: &BTreeMap<ComponentName, TableUpstream>,
    before: &[Arc<Target>],
    instance: impl Fn(&TableInstance) -> Arc<Instance>,
) -> Components {
    let known = |external: &External| {
        let remotes = before.iter().flat_map(|target| target.components.values());
        let mut remotes = remotes.filter_map(|component| match component {
            Component::External(remote) => Some(remote),
            Component::Service(_) | Component::Unusable(_) => None,
        });
        remotes.find(|remote| remote.external == *external).cloned()
    };
    let component = |upstream: &TableUpstream| match upstream {
        TableUpstream::Instances(instances) => Component::Service(instances.iter().map(&instance).collect()),
        TableUpstream::Url(url) => match External::read(url) {
            Ok(external) => {
                let new = |external| Arc::new(Remote { key: next_key(), external });
                Component::External(known(&external).unwrap_or_else(|| new(external)))
            }
            Err(why) => Component::Unusable(why),
        },
    };
    upstreams.iter().map(|(name, upstream)| (name.clone(), component(upstream))).collect()
}

/// All instances of a stamp.
pub(crate) fn instances(target: &Target) -> impl Iterator<Item = &Arc<Instance>> {
    let others = target.components.values().flat_map(|component| match component {
        Component::Service(instances) => &instances[..],
        Component::External(_) | Component::Unusable(_) => &[],
    });
    target.instances.iter().chain(others)
}

/// By what idle connections to components are kept.
pub(crate) fn keys(components: &Components) -> impl Iterator<Item = u64> {
    components.values().flat_map(|component| match component {
        Component::Service(instances) => instances.iter().map(|instance| instance.key).collect::<Vec<_>>(),
        Component::External(remote) => vec![remote.key],
        Component::Unusable(_) => Vec::new(),
    })
}
