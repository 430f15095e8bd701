//! What is known of one client's connection, shared by the guard on its socket, the service that answers its
//! requests and the bodies in between. All of them run in one task, so cells are enough.

use crate::clock::Clock;
use crate::guard::framing::Rejection;
use crate::limits;
use crate::nudge::Nudge;
use http::{HeaderName, HeaderValue};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

/// What the connection's one deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A head is awaited or coming.
    Head,
    /// The next request is awaited.
    Idle,
    /// A request is being answered, and the answer has not begun.
    Service,
    /// The answer is on its way.
    Answer,
    /// The last answer is out; what the client still sends is thrown away.
    Linger,
}

/// How far a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upload {
    /// All of it was read, or there is none.
    Done,
    /// The upstream is to take what was read.
    Upstream,
    /// The client is to send more.
    Client,
    /// More than the release allows.
    TooLarge,
    /// The client's connection ended, or its framing was wrong.
    Broken,
}

/// One client's connection.
pub(crate) struct Client {
    /// The other end of the socket.
    pub(crate) peer: SocketAddr,
    /// The other end's address as it goes into `X-Forwarded-For`.
    pub(crate) address: HeaderValue,
    /// The last `Forwarded` that was made, with the host it was made for.
    pub(crate) forwarded: RefCell<Option<(HeaderValue, HeaderValue)>>,
    /// Where the worker's list has this connection.
    pub(crate) place: Cell<usize>,
    /// Bytes of the body of the request at hand.
    pub(crate) bytes_in: Cell<u64>,
    /// See [`Upload`].
    pub(crate) upload: Cell<Upload>,
    /// The access line of the request at hand, as far as it is known.
    pub(crate) line: RefCell<Vec<u8>>,
    /// The head of the request at hand while it may be repeated.
    pub(crate) head: RefCell<Vec<(HeaderName, HeaderValue)>>,
    clock: Rc<Clock>,
    phase: Cell<Phase>,
    first_byte: Cell<Duration>,
    idle: Cell<Duration>,
    deadline: Cell<u64>,
    passed: Cell<bool>,
    nudge: RefCell<Option<(Arc<Nudge>, Waker)>>,
    stalled: Cell<bool>,
    heads: Cell<u64>,
    taken: Cell<u64>,
    finished: Cell<u64>,
    rejected_head: Cell<Option<(u64, Rejection)>>,
    rejected_body: Cell<Option<Rejection>>,
}

impl Client {
    /// A connection that was just accepted: its first head is awaited.
    pub(crate) fn new(peer: SocketAddr, clock: Rc<Clock>) -> Rc<Self> {
        // An IPv4 client of a socket that listens on IPv6 is still an IPv4 client.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let address = HeaderValue::try_from(peer.ip().to_string()).expect("an address is visible ASCII");
        let client = Self {
            peer,
            address,
            forwarded: RefCell::default(),
            place: Cell::new(0),
            bytes_in: Cell::new(0),
            upload: Cell::new(Upload::Done),
            line: RefCell::default(),
            head: RefCell::default(),
            clock,
            phase: Cell::new(Phase::Head),
            first_byte: Cell::new(limits::HEAD_TIME),
            idle: Cell::new(limits::HEAD_TIME),
            deadline: Cell::new(u64::MAX),
            passed: Cell::new(false),
            nudge: RefCell::default(),
            stalled: Cell::new(false),
            heads: Cell::new(0),
            taken: Cell::new(0),
            finished: Cell::new(0),
            rejected_head: Cell::new(None),
            rejected_body: Cell::new(None),
        };
        client.arm(Phase::Head, limits::HEAD_TIME);
        Rc::new(client)
    }

    /// From now on the deadline is about `phase`, `after` from now.
    pub(crate) fn arm(&self, phase: Phase, after: Duration) {
        self.phase.set(phase);
        self.deadline.set(self.clock.deadline(after));
        self.passed.set(false);
    }

    /// How long the answer to the request at hand may take to begin, and its bodies may pause.
    pub(crate) fn set_timeouts(&self, first_byte: Duration, idle: Duration) {
        self.first_byte.set(first_byte);
        self.idle.set(idle);
    }

    /// A body made progress: it may pause anew.
    pub(crate) fn touch(&self) {
        self.arm(self.phase.get(), self.idle.get());
    }

    /// The request is on its way upstream, or has got there.
    pub(crate) fn await_answer(&self) {
        let sent = self.upload.get() == Upload::Done;
        self.arm(Phase::Service, if sent { self.first_byte.get() } else { self.idle.get() });
    }

    /// The answer begins.
    pub(crate) fn begin_answer(&self) {
        self.arm(Phase::Answer, self.idle.get());
    }

    /// What the deadline is about.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether the deadline has passed. Looked at by everybody who may be waiting when the task is woken for it.
    pub(crate) fn deadline_passed(&self) -> bool {
        self.passed.get()
    }

    /// The deadline comes at the latest `after` from now.
    pub(crate) fn hasten(&self, after: Duration) {
        self.deadline.set(self.deadline.get().min(self.clock.deadline(after)));
    }

    /// Called by the worker at each tick: wakes the connection's task once when the deadline has passed.
    pub(crate) fn tick(&self) {
        if self.deadline.get() <= self.clock.now()
            && !self.passed.replace(true)
            && let Some((nudge, _)) = &*self.nudge.borrow()
        {
            nudge.wake_task();
        }
    }

    /// Around each poll of the connection's task: keeps what wakes it, at its deadline and from upstream.
    pub(crate) fn polled<T>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let known = self.nudge.borrow().as_ref().is_some_and(|(nudge, _)| nudge.is_for(cx.waker()));
        if !known {
            let nudge = Nudge::new(cx.waker().clone());
            *self.nudge.borrow_mut() = Some((Arc::clone(&nudge), Waker::from(nudge)));
        }
        self.with_nudge(|nudge, _| nudge.begin());
        let result = poll(cx);
        self.with_nudge(|nudge, _| nudge.end());
        // hyper does not read again before there is something to read, so nobody else sees the wait begin.
        if self.phase.get() == Phase::Answer && !self.busy() && !self.stalled.get() {
            self.arm(Phase::Idle, limits::KEEP_ALIVE);
        }
        result
    }

    /// Drives what belongs to this connection upstream. Only inside [`Self::polled`].
    pub(crate) fn drive(&self, drive: impl FnOnce(&mut Context<'_>)) {
        self.with_nudge(|nudge, waker| {
            nudge.attend();
            drive(&mut Context::from_waker(waker));
        });
    }

    /// Nothing upstream is waited for any more.
    pub(crate) fn let_upstream_go(&self) {
        self.with_nudge(|nudge, _| nudge.attend());
    }

    fn with_nudge(&self, with: impl FnOnce(&Nudge, &Waker)) {
        if let Some((nudge, waker)) = &*self.nudge.borrow() {
            with(nudge, waker);
        }
    }

    /// Whether the client leaves what was last written to it untaken.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.set(stalled);
    }

    /// Whether a head was handed on whose exchange has not ended.
    pub(crate) fn busy(&self) -> bool {
        self.heads.get() != self.finished.get()
    }

    /// `heads` more heads are handed on.
    pub(crate) fn hand_on(&self, heads: u64) {
        self.heads.set(self.heads.get() + heads);
    }

    /// Hands on a head that stands for one that is rejected, see [`Self::take`].
    pub(crate) fn hand_on_rejected(&self, why: Rejection) {
        self.rejected_head.set(Some((self.heads.get(), why)));
        self.hand_on(1);
    }

    /// The next head arrives at the service. Some: it stands for one that was rejected.
    pub(crate) fn take(&self) -> Option<Rejection> {
        let index = self.taken.replace(self.taken.get() + 1);
        self.rejected_head.get().and_then(|(rejected, why)| (rejected == index).then_some(why))
    }

    /// The exchange of the head that arrived last has ended.
    pub(crate) fn finish(&self) {
        self.finished.set(self.finished.get() + 1);
    }

    /// The body of the request at hand is rejected: nothing follows it.
    pub(crate) fn reject_body(&self, why: Rejection) {
        self.rejected_body.set(Some(why));
    }

    /// Why the body of the request at hand is rejected.
    pub(crate) fn rejected_body(&self) -> Option<Rejection> {
        self.rejected_body.get()
    }
}
