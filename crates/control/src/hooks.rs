//! The hooks of stores: what brings a schema to a release, and what tidies up behind it.

use crate::needs::Given;
use crate::stamp::Surroundings;
use crate::stores::StoresWatch;
use crate::work::Outcome;
use api::shim::Start;
use model::artifact::{Artifact, Release};
use model::machine::ReasonKind;
use model::name::{ComponentName, InstanceId, ReleaseNumber};
use model::template::{MissingValue, Template};
use model::workload::{Configuration, Store};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which hook of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Expand,
    Contract,
}

impl Hook {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Expand => "expand",
            Self::Contract => "contract",
        }
    }

    fn command(self, store: &Store) -> &[Template] {
        match self {
            Self::Expand => &store.expand,
            Self::Contract => &store.contract,
        }
    }

    /// Its identity: no other run of a hook ever has it.
    fn id(self, number: ReleaseNumber, component: &ComponentName) -> InstanceId {
        let index = match self {
            Self::Expand => 0,
            Self::Contract => 1,
        };
        InstanceId { stamp: number.stamp(), component: component.clone(), index }
    }
}

/// The identities of all hooks of a release.
pub(crate) fn ids(number: ReleaseNumber, configuration: &Configuration) -> Vec<InstanceId> {
    let both = |name| [Hook::Expand.id(number, name), Hook::Contract.id(number, name)];
    configuration.stores.keys().flat_map(both).collect()
}

/// What came of running a hook of several stores.
pub(crate) struct Ran {
    /// The stores whose hook has succeeded, with what it said.
    pub(crate) done: Vec<(ComponentName, String)>,
    /// Why it ended early.
    pub(crate) failed: Option<Outcome>,
}

impl Ran {
    pub(crate) fn text(&self) -> String {
        self.done.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ")
    }
}

/// What hooks run with.
pub(crate) struct Hooks {
    pub(crate) number: ReleaseNumber,
    pub(crate) release: Arc<Release>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) stores: StoresWatch,
    /// The address of each store, by name.
    pub(crate) given: BTreeMap<ComponentName, Given>,
}

impl Hooks {
    /// Whether this hook of some store was started, by this agent or one before it.
    pub(crate) fn have_begun(&self, hook: Hook) -> bool {
        let stores = &self.release.configuration.stores;
        stores.iter().filter(|(_, store)| !hook.command(store).is_empty()).any(|(name, _)| {
            let id = hook.id(self.number, name);
            self.surroundings.folder.instance_log(id.stamp, &id.component, id.index).exists()
        })
    }

    /// Runs this hook of every store that has one, one after the other, up to the first that fails.
    pub(crate) async fn run(&self, hook: Hook) -> Ran {
        let mut done = Vec::new();
        let failed = self.run_each(hook, &mut done).await.err();
        Ran { done, failed }
    }

    async fn run_each(&self, hook: Hook, done: &mut Vec<(ComponentName, String)>) -> Result<(), Outcome> {
        let stores = self.stores.clone().ready().await;
        stores.map_err(|text| Outcome::failed(ReasonKind::Store, text))?;
        for (name, store) in &self.release.configuration.stores {
            if hook.command(store).is_empty() {
                continue;
            }
            let failed = |text: String| {
                Outcome::failed(ReasonKind::Schema, format!("{} of {name} {text}", hook.name()))
            };
            let start = self.start(hook, name, store).map_err(|error| failed(error.to_string()))?;
            let driver = &self.surroundings.driver;
            let end = driver.run_hook(&start, store.hook_timeout).await;
            let end = end.map_err(|error| failed(error.to_string()))?;
            let last = end.lines.last().map(|line| format!(": {line}")).unwrap_or_default();
            done.push((name.clone(), format!("{} of {name} done{last}", hook.name())));
        }
        Ok(())
    }

    fn start(&self, hook: Hook, name: &ComponentName, store: &Store) -> Result<Start, MissingValue> {
        let surroundings = &self.surroundings;
        let stamp = self.number.stamp();
        let value = |name: &str| {
            Some(Cow::Owned(match name {
                "data" => surroundings.folder.data().display().to_string(),
                "release.id" => surroundings.release_id.clone(),
                "environment.name" => surroundings.environment.to_string(),
                "stamp.name" => stamp.to_string(),
                "instance.index" => "0".to_owned(),
                _ => return None,
            }))
        };
        let mut command =
            hook.command(store).iter().map(|part| part.render(value)).collect::<Result<Vec<_>, _>>()?;
        let folder = match &self.release.artifacts[name] {
            Artifact::Stored { digest } => surroundings.folder.artifact(digest),
            Artifact::Command { executable, folder, .. } => {
                command[0] = executable.display().to_string();
                folder.clone()
            }
        };
        let mut env = surroundings.base_env.clone();
        let address = self.given.get(name).and_then(|given| given.address.borrow().clone());
        if let (Some(variable), Some(address)) = (&store.address_as, address) {
            env.insert(variable.clone(), address);
        }
        for (name, text) in &store.env {
            env.insert(name.clone(), text.render(value)?);
        }
        let instance = hook.id(self.number, name);
        Ok(Start {
            v: api::PROTOCOL_VERSION,
            fence: surroundings.fence,
            command,
            folder,
            env: env.into_iter().collect(),
            open_files: None,
            log: surroundings.folder.instance_log(stamp, name, instance.index),
            port: 0,
            instance,
            stop_signal: api::shim::StopSignal::default(),
        })
    }
}
