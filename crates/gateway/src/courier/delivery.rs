//! One delivery: from a call to what came of it.
//!
//! What surely was not sent may go anywhere, as for requests that are forwarded: to another instance, to the stamp
//! that takes over from one that retires, and to the active stamp if the candidate has no instance that takes it. What
//! may have been sent is never sent again here: that is the queue's decision.

use crate::choice::Choice;
use crate::clock::monotonic_ms;
use crate::components::{Component, Remote};
use crate::courier::Carrier;
use crate::courier::line::{Failure, Gathered, Line, keep, late};
use crate::courier::way::Way;
use crate::door::{self, Wish};
use crate::fault::{Fault, Refusal};
use crate::fields;
use crate::limits::{CONNECT_TRIES, UNSENT_TRIES};
use crate::queued::{due, sent};
use crate::routes::{self, Instance, Target};
use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use queue::{Answer, Call, CallOutcome, Queue, Upstream};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;

/// What is known of a delivery while it is under way.
pub(super) struct Trip<'a> {
    pub(super) carrier: &'a Carrier,
    pub(super) call: &'a Call,
    pub(super) choice: Choice,
    pub(super) fields: HeaderMap,
    pub(super) began: Instant,
    /// None: before a stamp was found, and for externals.
    pub(super) way: Option<Way>,
    /// A request was given to a connection, and not handed back.
    sent: bool,
}

/// What was tried for one delivery.
#[derive(Default)]
struct Tries {
    /// Positions of instances that did not take a connection.
    unreachable: Vec<usize>,
    connects: u32,
    /// Connections that turned out to be closed.
    handed_back: u32,
}

/// How a delivery ended.
pub(super) enum Came {
    /// With an answer, on a connection that leads to what has this key.
    Answered(Box<Gathered>, Line, u64),
    /// Nothing was sent.
    NotSent(Fault, String),
    /// Something may have been received.
    Unanswered(String),
    /// It was not sent, because it may be that it has to be sent again.
    Withheld(&'static str),
    /// What it is to be sent to is no target: nothing was sent, and never can be.
    NoTarget(String),
}

/// Makes one call and reports it. Dropped before it is ready, it is not reported: then its job finds out at the next
/// start.
pub(crate) async fn deliver(carrier: &Carrier, queue: &Queue, call: Call) {
    let mut fields = sent::fields(&call);
    let wish = door::recall(&mut fields);
    let choice = Choice::later(call.user, wish);
    let leg = carrier.begin_leg(&mut fields);
    let began = Instant::now();
    let mut trip = Trip { carrier, call: &call, choice, fields, began, way: None, sent: false };
    let came = match tokio::time::timeout(call.timeout, trip.go()).await {
        Ok(came) => came,
        Err(_) if trip.sent => Came::Unanswered(format!("no whole answer within {:?}", call.timeout)),
        Err(_) => Came::NotSent(Fault::ConnectFailed, format!("no connection within {:?}", call.timeout)),
    };
    trip.note(&came, leg);
    let target = trip.way.as_ref().map(|way| Arc::clone(&way.target));
    let settings = target.as_ref().and_then(|target| target.queued.named(&call.route));
    let wished = !trip.choice.wish.is_none();
    // What waits for the stamp to be left need not wait for the queue.
    drop(trip);
    let (outcome, line) = match came {
        Came::Answered(gathered, line, key) => {
            let line = (!gathered.cut).then_some((line, key));
            (answered(*gathered), line)
        }
        // Who asked for a stamp by name does not want to wait for one of that name.
        Came::NotSent(Fault::NoCandidate | Fault::NoInstance, why) if wished => {
            (refused(StatusCode::NOT_FOUND, "no-candidate", "There is no candidate", &why), None)
        }
        Came::NotSent(fault, why) => (CallOutcome::NotSent { why, busy: fault == Fault::Overloaded }, None),
        Came::Withheld(why) => (CallOutcome::Withheld { why: why.to_owned() }, None),
        Came::Unanswered(why) => (CallOutcome::Unanswered { why }, None),
        Came::NoTarget(why) => {
            (refused(StatusCode::BAD_REQUEST, "no-target", "There is no such target", &why), None)
        }
    };
    queue.report(call.id, outcome, settings.map(|queued| &queued.settings));
    if let Some((line, key)) = line {
        keep(&carrier.idle, key, line, monotonic_ms).await;
    }
}

fn answered(gathered: Gathered) -> CallOutcome {
    let Gathered { mut head, body, cut, .. } = gathered;
    let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| due::delay(value, SystemTime::now()));
    fields::response(&mut head.headers);
    let fields = sent::listed(&head.headers);
    let answer = Answer { status: head.status.as_u16(), fields, body, truncated: cut };
    CallOutcome::Answered { answer, retry_after }
}

/// The answer to a job that can be sent to nobody, now or later. A 400 to a probe says nothing of the job.
fn refused(status: StatusCode, kind: &str, title: &str, why: &str) -> CallOutcome {
    let problem = serde_json::json!({
        "type": format!("urn:mainstay:problem:{kind}"),
        "title": title,
        "status": status.as_u16(),
        "detail": why,
    });
    let json = (Bytes::from_static(b"content-type"), Bytes::from_static(b"application/problem+json"));
    let body = problem.to_string().into();
    let answer = Answer { status: status.as_u16(), fields: vec![json], body, truncated: false };
    CallOutcome::Answered { answer, retry_after: None }
}

/// Where a call goes. What a saga fills into a path, or an operator writes, need not make one.
fn target(path_and_query: &str) -> Result<Uri, Came> {
    let found = path_and_query.parse::<Uri>().map_err(|cause| cause.to_string());
    let found = found.and_then(|uri| match uri.authority() {
        None if path_and_query.starts_with('/') => Ok(uri),
        Some(_) | None => Err("it begins with no slash".to_owned()),
    });
    found.map_err(|cause| {
        Came::NoTarget(format!("`{path_and_query}` is no path to send a request to: {cause}"))
    })
}

impl Trip<'_> {
    async fn go(&mut self) -> Came {
        let mut tries = Tries::default();
        let mut request = match target(&self.call.path_and_query) {
            Ok(target) => self.request(target),
            Err(came) => return came,
        };
        if let Err(refusal) = self.claim() {
            return not_sent(refusal);
        }
        loop {
            let (mut line, key) = match self.connection(&mut tries).await {
                Ok(Reached::Instance(line, key)) => (line, key),
                Ok(Reached::External(remote)) => return self.call_external(&remote).await,
                Err(came) => return came,
            };
            let way = self.way.as_ref().expect("an instance is held under a claim");
            if !request.headers().contains_key(HOST) {
                // Only HTTP/1.0 may come without, and HTTP/1.1 may not go without.
                let address = way.instance().map(|instance| instance.address.to_string());
                let address = HeaderValue::try_from(address.unwrap_or_default());
                request.headers_mut().insert(HOST, address.expect("an address is visible ASCII"));
            }
            if (self.call.doubted || self.call.unannounced) && !self.may_happen_again(&way.target) {
                let why = match self.call.doubted {
                    true => {
                        "an earlier attempt may have happened, and the release that it is for now honours no keys"
                    }
                    false => "it is not announced on disk, and the release that it is for honours no keys",
                };
                return Came::Withheld(why);
            }
            way.target.slot.dispatched();
            self.sent = true;
            match line.exchange(request).await {
                Ok(gathered) => {
                    let (target, failed) = (Arc::clone(&way.target), gathered.head.status.is_server_error());
                    if let (Some(instance), Ok(among)) = (way.instance(), self.instances(&target)) {
                        routes::answered(among, instance, failed, monotonic_ms());
                    }
                    return Came::Answered(Box::new(gathered), line, key);
                }
                Err(Failure::Unsent(unsent)) if tries.handed_back < UNSENT_TRIES => {
                    self.sent = false;
                    tries.handed_back += 1;
                    request = *unsent;
                }
                Err(Failure::Unsent(_)) => {
                    self.sent = false;
                    let why = "every connection was closed before it was used".to_owned();
                    return Came::NotSent(Fault::UpstreamCut, why);
                }
                Err(Failure::Unknown(why)) => return Came::Unanswered(why),
            }
        }
    }

    /// Whether a stamp takes a repeated request of this route for the same. What its settings do not say, the job's own
    /// do, and a step of a saga has settings of its own.
    fn may_happen_again(&self, target: &Target) -> bool {
        let queued = target.queued.named(&self.call.route);
        self.call.saga || self.call.probe || queued.is_none_or(|queued| queued.settings.idempotent)
    }

    fn claim(&mut self) -> Result<(), Refusal> {
        self.way = None;
        let gone = |refusal: &Refusal| matches!(refusal.fault, Fault::NoCandidate | Fault::NoInstance);
        let way = match Way::claim(self.carrier, &self.choice) {
            // What a candidate that is gone has done is undone, and asked after, where its data is: that it is gone
            // says nothing of what it has done.
            Err(refusal) if (self.call.undo || self.call.probe) && gone(&refusal) => {
                self.choice.wish = Wish::default();
                Way::claim(self.carrier, &self.choice)?
            }
            claimed => claimed?,
        };
        self.way = Some(way);
        Ok(())
    }

    fn request(&self, target: Uri) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.call.body.clone()));
        *request.method_mut() = sent::method(self.call.method);
        *request.uri_mut() = target;
        request.headers_mut().clone_from(&self.fields);
        request
    }

    /// The instance that the job's client has asked for: one of the service that gets requests, and of no other that a
    /// saga calls.
    fn pinned(&self, target: &Target) -> Option<u32> {
        let is_default = match &self.call.to {
            Upstream::Default => true,
            Upstream::Component(name) => *name == target.settings.default,
        };
        self.choice.wish.instance.filter(|_| is_default)
    }

    /// Whom the call is for, on a stamp.
    fn instances<'t>(&self, target: &'t Target) -> Result<&'t [Arc<Instance>], Whom<'t>> {
        let name = match &self.call.to {
            Upstream::Default => return Ok(&target.instances),
            Upstream::Component(name) if *name == target.settings.default => return Ok(&target.instances),
            Upstream::Component(name) => name,
        };
        match target.components.get(name) {
            Some(Component::Service(instances)) => Ok(instances),
            Some(Component::External(remote)) => Err(Whom::External(remote)),
            Some(Component::Unusable(why)) => Err(Whom::Nobody(format!("{name} cannot be called: {why}"))),
            None => Err(Whom::Nobody(format!("the release {} has no component {name}", target.name))),
        }
    }

    /// A connection to an instance of the claimed stamp: an idle one, or a new one. If the job is another stamp's by
    /// the time there is one, that stamp is claimed instead.
    async fn connection(&mut self, tries: &mut Tries) -> Result<Reached, Came> {
        loop {
            let way = self.way.as_mut().expect("a delivery is made under a claim");
            let target = Arc::clone(&way.target);
            let instances = match self.instances(&target) {
                Ok(instances) => instances,
                Err(Whom::External(remote)) => return Ok(Reached::External(Arc::clone(remote))),
                Err(Whom::Nobody(why)) => return Err(Came::NotSent(Fault::NoInstance, why)),
            };
            let Some(instance) = self.hold(&target, instances, tries)? else {
                self.fail(&target);
                self.elsewhere(tries, || {
                    Refusal::new(Fault::NoReadyInstance, "the release has no ready instance")
                })?;
                continue;
            };
            if let Some(line) = self.carrier.idle.borrow_mut().take(instance.key) {
                return Ok(Reached::Instance(line, instance.key));
            }
            let connected = connect(&instance, target.settings.limits.connect_timeout).await;
            let left = self.way.as_ref().is_none_or(|way| way.is_left(self.carrier, &self.choice));
            match connected {
                // Nothing was sent yet, so the job belongs to whoever serves now.
                Ok(_) if left => self.claim_again(tries).map_err(not_sent)?,
                Ok(line) => return Ok(Reached::Instance(line, instance.key)),
                Err(cause) => {
                    instance.eject(monotonic_ms());
                    tries.unreachable.extend(instances.iter().position(|other| other.key == instance.key));
                    tries.connects += 1;
                    tracing::debug!(instance = instance.index, address = %instance.address, %cause, "no connection");
                    self.fail(&target);
                    let others = tries.unreachable.len() < instances.len();
                    let pinned = self.pinned(&target).is_some();
                    if left || !others || pinned || tries.connects >= CONNECT_TRIES {
                        self.elsewhere(tries, || {
                            Refusal::new(
                                Fault::ConnectFailed,
                                format!("no instance takes a connection: {cause}"),
                            )
                        })?;
                    }
                }
            }
        }
    }

    /// Claims the stamp that has the job by now, or the active one in place of a candidate that was chosen by weight.
    /// Once at most for a stamp that goes on having it.
    fn elsewhere(&mut self, tries: &mut Tries, why: impl FnOnce() -> Refusal) -> Result<(), Came> {
        let way = self.way.as_ref().expect("a delivery is made under a claim");
        if !way.is_left(self.carrier, &self.choice) {
            if !way.by_weight {
                return Err(not_sent(why()));
            }
            self.choice.divert();
            tries.connects = 0;
        }
        self.claim_again(tries).map_err(not_sent)
    }

    fn claim_again(&mut self, tries: &mut Tries) -> Result<(), Refusal> {
        tries.unreachable.clear();
        self.claim()
    }

    fn fail(&self, target: &Target) {
        if self.choice.wish.is_none() {
            self.carrier.connect_failed(target);
        }
    }

    /// Holds the best instance that has room. None: there is none but those that take no connection.
    fn hold(
        &mut self,
        target: &Target,
        instances: &[Arc<Instance>],
        tries: &Tries,
    ) -> Result<Option<Arc<Instance>>, Came> {
        let (limit, pinned) = (target.settings.limits.in_flight, self.pinned(target));
        let random = || self.carrier.random.next();
        let mut passed = tries.unreachable.clone();
        let mut full = false;
        let way = self.way.as_mut().expect("a delivery is made under a claim");
        while let Some(place) = routes::choose(instances, monotonic_ms(), pinned, &passed, random) {
            if way.hold(&instances[place], limit) {
                return Ok(Some(Arc::clone(&instances[place])));
            }
            full = true;
            passed.push(place);
        }
        if full {
            let why = format!("every instance has {limit} requests in flight");
            return Err(Came::NotSent(Fault::Overloaded, why));
        }
        Ok(None)
    }

    /// An external gets nothing that says who the client is: no credentials, no cookies, no addresses.
    async fn call_external(&mut self, remote: &Remote) -> Came {
        // It is nobody's stamp.
        self.way = None;
        sent::for_strangers(&mut self.fields);
        self.fields.insert(HOST, remote.external.authority.clone());
        let path = format!("{}{}", remote.external.prefix, self.call.path_and_query);
        let mut request = match target(&path) {
            Ok(target) => self.request(target),
            Err(came) => return came,
        };
        for _ in 0..UNSENT_TRIES {
            let idle = self.carrier.idle.borrow_mut().take(remote.key);
            let mut line = match idle {
                Some(line) => line,
                None => match remote.external.connect().await {
                    Ok(line) => line,
                    Err(cause) => {
                        return Came::NotSent(Fault::ConnectFailed, format!("no connection: {cause}"));
                    }
                },
            };
            self.sent = true;
            match line.exchange(request).await {
                Ok(gathered) => return Came::Answered(Box::new(gathered), line, remote.key),
                Err(Failure::Unknown(why)) => return Came::Unanswered(why),
                Err(Failure::Unsent(unsent)) => {
                    self.sent = false;
                    request = *unsent;
                }
            }
        }
        Came::NotSent(Fault::UpstreamCut, "every connection was closed before it was used".to_owned())
    }
}

/// Who else a call can be for.
enum Whom<'t> {
    External(&'t Arc<Remote>),
    Nobody(String),
}

/// What a call goes to.
enum Reached {
    /// Over this connection, which is kept by this key.
    Instance(Line, u64),
    External(Arc<Remote>),
}

fn not_sent(refusal: Refusal) -> Came {
    Came::NotSent(refusal.fault, refusal.detail.into_owned())
}

async fn connect(instance: &Instance, limit: Duration) -> io::Result<Line> {
    let connect = async {
        let socket = TcpStream::connect(instance.address).await?;
        // Small requests must not wait for an acknowledgement of what went before.
        socket.set_nodelay(true)?;
        Line::over(socket).await.map_err(io::Error::other)
    };
    tokio::time::timeout(limit, connect).await.map_err(|_| late(limit))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_target_is_sent_nowhere() {
        for path in ["/", "/orders?x=1", "/a/%20b", "//double", "/a?b=c?d"] {
            assert_eq!(target(path).ok().map(|uri| uri.to_string()).as_deref(), Some(path));
        }
        for path in
            ["", "orders", "*", "a b", "/a b", "/a\nb", "http://other.example/", "/\u{7f}", "other:80"]
        {
            assert!(matches!(target(path), Err(Came::NoTarget(_))), "{path}");
        }
    }
}
