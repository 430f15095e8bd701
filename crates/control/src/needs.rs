//! What an instance needs before it starts, and where that is reached.

use crate::instance::{Plan, View};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An instance that another one needs.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) address_as: Option<String>,
    pub(crate) view: watch::Receiver<View>,
}

/// What a store or something that others run is reached by, once it is there.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) address_as: Option<String>,
    pub(crate) address: watch::Receiver<Option<String>>,
}

/// Where something that is needed is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Instance(SocketAddr),
    Given(String),
}

impl Address {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Instance(address) => format!("http://{address}"),
            Self::Given(url) => url.clone(),
        }
    }
}

/// Waits until something this instance needs is ready at another address than it was told.
pub(crate) async fn need_moved(plan: &Plan, needed: Option<BTreeMap<String, Address>>) {
    let Some(needed) = needed else { return std::future::pending().await };
    let told = |variable: Option<&String>| needed.get(variable?).cloned();
    let mut moves: JoinSet<()> = JoinSet::new();
    for need in &plan.needs {
        let Some(told) = told(need.address_as.as_ref()) else { continue };
        let mut view = need.view.clone();
        moves.spawn(async move {
            let moved = |view: &View| view.ready().is_some_and(|ready| Address::Instance(ready) != told);
            if view.wait_for(moved).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
    }
    for given in &plan.given {
        let Some(told) = told(given.address_as.as_ref()) else { continue };
        let mut address = given.address.clone();
        moves.spawn(async move {
            let moved = |now: &Option<String>| now.clone().is_some_and(|now| Address::Given(now) != told);
            if address.wait_for(moved).await.is_err() {
                std::future::pending::<()>().await;
            }
        });
    }
    if moves.join_next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The address of everything this instance needs, by variable, once it is all there.
pub(crate) async fn addresses_of_needs(plan: &Plan) -> BTreeMap<String, Address> {
    let mut addresses = BTreeMap::new();
    for need in &plan.needs {
        let mut view = need.view.clone();
        // A need whose task is gone is being stopped, and so are we.
        let Ok(ready) = view.wait_for(View::serves).await else {
            return std::future::pending().await;
        };
        if let (Some(variable), Some(address)) = (&need.address_as, ready.ready()) {
            addresses.insert(variable.clone(), Address::Instance(address));
        }
    }
    for given in &plan.given {
        let mut address = given.address.clone();
        let Ok(there) = address.wait_for(Option::is_some).await else {
            return std::future::pending().await;
        };
        if let (Some(variable), Some(address)) = (&given.address_as, &*there) {
            addresses.insert(variable.clone(), Address::Given(address.clone()));
        }
    }
    addresses
}
