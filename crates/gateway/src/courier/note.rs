//! What a delivery leaves behind once it has ended: its measure, its access line and its span.

use crate::access;
use crate::courier::delivery::{Came, Trip};
use crate::courier::way::Way;
use crate::fault::Fault;
use crate::fields;
use crate::measures::Outcome;
use crate::queued::sent;
use crate::routes;
use crate::traces::{Leg, LegEnd};
use http::header::{HOST, HeaderValue};
use std::time::Duration;

/// What a line and a span say of how it ended.
struct Said {
    /// 0: there was no answer.
    status: u16,
    bytes_out: usize,
    error: Option<&'static str>,
    duration: Duration,
}

impl Trip<'_> {
    /// Measures the delivery as a request of the stamp it went to, and writes its access line.
    pub(super) fn note(&self, came: &Came, leg: Option<Leg>) {
        let said = self.said(came);
        if let Some(leg) = leg {
            self.export(leg, &said);
        }
        let Some(way) = &self.way else { return self.log(&said, None) };
        let target = &way.target;
        let route = match self.call.saga || self.call.probe {
            true => target.routes.named(&self.call.route),
            false => target.routes.find(&sent::method(self.call.method), self.path()),
        };
        self.log(&said, Some(way));
        // What was asked for at the preview door is no user's, and a probe nobody's.
        if !self.choice.wish.is_none() || self.call.probe {
            return;
        }
        let (class, error, latency) = match came {
            Came::Answered(gathered, _, _) => {
                let status = gathered.head.status.as_u16();
                (usize::from(status / 100).min(5), status >= 500, Some(gathered.head_at - self.began))
            }
            Came::NotSent(Fault::Overloaded, _) => (0, false, None),
            Came::NotSent(_, _) | Came::Unanswered(_) => (0, true, None),
            // They say nothing of the stamp.
            Came::NoTarget(_) | Came::Withheld(_) => return,
        };
        let latency_us = latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        self.carrier.record(target, route, class, Outcome { error, latency_us });
    }

    fn path(&self) -> &str {
        self.call.path_and_query.split('?').next().unwrap_or_default()
    }

    fn said(&self, came: &Came) -> Said {
        let duration = self.began.elapsed();
        let (status, bytes_out, error) = match came {
            Came::Answered(gathered, _, _) => (gathered.head.status.as_u16(), gathered.body.len(), None),
            Came::NotSent(fault, _) => (0, 0, Some(fault.label())),
            Came::Unanswered(_) if duration >= self.call.timeout => (0, 0, Some(Fault::Timeout.label())),
            Came::Unanswered(_) => (0, 0, Some(Fault::UpstreamCut.label())),
            Came::NoTarget(_) => (400, 0, Some(Fault::Malformed.label())),
            Came::Withheld(_) => (0, 0, Some("withheld")),
        };
        Said { status, bytes_out, error, duration }
    }

    fn export(&self, leg: Leg, said: &Said) {
        let way = self.way.as_ref();
        let instance = way.and_then(Way::instance);
        self.carrier.export(leg.end(LegEnd {
            duration: said.duration,
            method: sent::method(self.call.method),
            path: self.path().to_owned(),
            host: self.fields.get(HOST).cloned(),
            job: self.call.job.0,
            attempt: self.call.attempt,
            is_probe: self.call.probe,
            status: said.status,
            stamp: way.map(|way| (way.target.slot.stamp, way.target.name.clone())),
            instance: instance.map(|instance| (instance.index, instance.address)),
            error: said.error,
        }));
    }

    fn log(&self, said: &Said, way: Option<&Way>) {
        let logs = |routes: &routes::Routes| {
            let target = routes.active.as_ref().or(routes.candidate.as_ref());
            target.is_none_or(|target| target.settings.access_log)
        };
        if !self.carrier.with_routes(logs) {
            return;
        }
        let what = if self.call.probe { "probe" } else { "delivery" };
        let mut line = Vec::with_capacity(512);
        let text = |name| self.fields.get(name).cloned().unwrap_or_else(|| HeaderValue::from_static(""));
        access::begin_delivery(
            &mut line,
            &text(fields::REQUEST_ID),
            self.call.method.as_str(),
            &text(HOST),
            &self.call.path_and_query,
        );
        access::end(
            &mut line,
            &access::End {
                status: said.status,
                bytes_in: self.call.body.len() as u64,
                bytes_out: said.bytes_out as u64,
                duration: said.duration,
                held: Duration::ZERO,
                previous: false,
                target: way.map(|way| &*way.target),
                route: Some(&self.call.route),
                instance: way.and_then(Way::instance).map(|instance| instance.index),
                attempts: self.call.attempt,
                error: said.error,
                job: Some((Some(self.call.job.0), what)),
            },
        );
        self.carrier.lines.borrow_mut().write(&line, self.carrier.counts());
    }
}
