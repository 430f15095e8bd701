//! Every limit of the gateway that no setting changes, with what happens when it is reached.

use std::time::Duration;

/// Bytes of a request's head, request line included; more gets 431 and the connection is closed.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;

/// Fields in a request's head, and again in its trailer section; more gets 431 and the connection is closed.
pub(crate) const HEAD_FIELDS: usize = 100;

/// Bytes of a trailer section; more gets 431 and the connection is closed. hyper keeps 16 KiB at most.
pub(crate) const TRAILER_BYTES: usize = 8 * 1024;

/// Bytes of the extensions of one chunk, which are read and dropped; more gets 400. Nobody uses them but to
/// waste the reader's time.
pub(crate) const CHUNK_EXTENSION_BYTES: usize = 256;

/// What hyper may buffer of one connection in each direction: more than [`HEAD_BYTES`], so that the limit that
/// answers is ours. A writer that is this far behind stops the reading from the other side.
pub(crate) const BUFFER_BYTES: usize = 2 * HEAD_BYTES;

/// From the first byte of a head (for a connection's first request: from its start) to its last; then 408 and
/// the connection is closed.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);

/// How long a client's connection may wait for its next request; then it is closed.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Client connections open at once; at the limit accepting pauses and further ones wait in the socket's backlog.
pub(crate) const CONNECTIONS: usize = 10_000;

/// How long accepting pauses when the operating system has no descriptor or memory for another connection.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much a closed connection may still send before it is dropped, so that the last answer is not lost to a
/// reset (RFC 9112, 9.6), and for how long.
pub(crate) const LINGER_BYTES: usize = 1024 * 1024;
/// See [`LINGER_BYTES`].
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(1);

/// How exact the deadlines of connections are: each worker looks at all of its connections this often.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// How long an upstream connection may be idle; then it is closed. Less than the 2 s after which gunicorn closes.
pub(crate) const UPSTREAM_IDLE: Duration = Duration::from_millis(1500);

/// Idle upstream connections one worker keeps for one instance; more are closed.
pub(crate) const UPSTREAM_IDLE_CONNECTIONS: usize = 256;

/// How long an instance whose connection failed is passed over while there are others.
pub(crate) const EJECTION: Duration = Duration::from_secs(1);

/// Answers with 5xx, one after the other, after which an instance is passed over for [`EJECTION`], and again with
/// each further one. The last one that is not passed over is left alone: its errors are the release's.
pub(crate) const EJECTING_ERRORS: u32 = 5;

/// Instances that are tried for one request while nothing was sent; then 502.
pub(crate) const CONNECT_TRIES: u32 = 4;

/// How often a request may be handed back unsent by a connection that turned out to be closed; then 502. After the
/// first time connections are asked before they are used, and new ones are made when none is left.
pub(crate) const UNSENT_TRIES: u32 = 8;

/// How often a request chooses its stamp again because the slot it had claimed was closed meanwhile; then 503.
pub(crate) const CLAIM_TRIES: u32 = 16;

/// A repetition costs this many requests: one in five.
pub(crate) const RETRY_COST: u32 = 5;

/// Requests a worker may save up for repetitions; it starts with a tenth of it.
pub(crate) const RETRY_SAVINGS: u32 = 500;

/// How long the stamp before may take to begin its answer to what a stamp has answered with 404; then that is the
/// answer, and the instance that was asked is not asked for [`EJECTION`].
pub(crate) const PREVIOUS_TIME: Duration = Duration::from_secs(2);

/// Bytes of a file of a stamp that has stopped that are read at once: what one such answer holds in memory.
pub(crate) const FILE_CHUNK: usize = 64 * 1024;

/// How long what is in flight may take to end when the gateway goes; then it is cut.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(30);

/// How long idle client connections stay open when the gateway goes, for requests already under way.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What clients are told to wait after a 503, in seconds.
pub(crate) const RETRY_AFTER: &str = "1";

/// Bytes of an access line taken from one field of a request; the rest is left out.
pub(crate) const LINE_FIELD_BYTES: usize = 4096;

/// Bytes of access lines a worker gathers before it hands them to the writer; at the latest every [`TICK`].
pub(crate) const LINES_BYTES: usize = 32 * 1024;

/// Gathered bundles that may wait for the writer; more are dropped and counted.
pub(crate) const LINES_WAITING: usize = 256;

/// Bytes of an access log before it is put aside as `access.log.1`.
pub(crate) const LOG_BYTES: u64 = 64 * 1024 * 1024;

/// Access logs put aside; older ones are deleted.
pub(crate) const LOG_FILES: u32 = 4;

/// Stamps whose counters are kept; those that were not named for longest are dropped from `/metrics`.
pub(crate) const STAMPS_COUNTED: usize = 16;

/// Stamps whose routes are measured: the active, candidate and fallback ones and the one before. Measures of those
/// that were not named for longest are dropped; they begin anew if a table names such a stamp again.
pub(crate) const STAMPS_MEASURED: usize = 4;

/// Routes of stamps in `/metrics`, newest stamps first; the rest of a stamp's are added to its `other`.
pub(crate) const ROUTE_SERIES: usize = 1000;

/// Bytes of a message on the admin socket; more gets 400.
pub(crate) const ADMIN_BYTES: usize = 4 * 1024 * 1024;

/// Connections to the admin sockets open at once; more wait in the backlog.
pub(crate) const ADMIN_CONNECTIONS: usize = 64;

/// How long one connection to an admin socket may last, operations on the queue and what comes of them apart; then it
/// is closed.
pub(crate) const ADMIN_TIME: Duration = Duration::from_secs(30);

/// A request id taken from a trusted proxy has at most this many bytes; a longer one is replaced.
pub(crate) const REQUEST_ID_BYTES: usize = 128;

/// Traced requests and deliveries that may wait for the exporter; more are dropped and counted.
pub(crate) const TRACED_WAITING: usize = 4096;

/// Traced requests in one message to a collector.
pub(crate) const TRACED_BATCH: usize = 512;

/// How long the first of a message waits for others.
pub(crate) const TRACED_GATHER: Duration = Duration::from_secs(1);

/// How long a collector may take to take a message, from the connection to the end of its answer.
pub(crate) const EXPORT_TIME: Duration = Duration::from_secs(5);

/// How often a message is sent while the collector answers; then it is dropped and counted. One whose message before
/// was dropped gets a single try, so that what waits does not get old.
pub(crate) const EXPORT_TRIES: u32 = 3;

/// How long the exporter waits before it sends a message again, unless the collector asks for longer.
pub(crate) const EXPORT_PAUSE: Duration = Duration::from_secs(1);

/// The longest it waits because the collector asks for it (`Retry-After`).
pub(crate) const EXPORT_PAUSE_MOST: Duration = Duration::from_secs(10);

/// Bytes of a collector's answer that are read; a longer one counts as none.
pub(crate) const EXPORT_ANSWER_BYTES: usize = 64 * 1024;

/// How long the exporter may go on when the workers have ended; then what is left is dropped.
pub(crate) const EXPORT_END: Duration = Duration::from_secs(2);

/// Bytes of an `Authorization` in which a claim is looked for; of a longer one the claim is not known.
pub(crate) const TOKEN_BYTES: usize = 16 * 1024;

/// Bytes of bodies of requests to queued routes that are in memory before they are on disk, of all workers; more get
/// 503.
pub(crate) const QUEUED_BODIES_BYTES: u64 = 256 * 1024 * 1024;

/// How long a request may take to get on disk; then 504, because it may get there yet.
pub(crate) const ACCEPT_TIME: Duration = Duration::from_secs(20);

/// What clients are told to wait before they ask for a job again, in seconds.
pub(crate) const JOB_RETRY_AFTER: u64 = 2;

/// How often a queue that could not be opened is tried again: somebody may have repaired it.
pub(crate) const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// Bytes of an answer that the courier keeps; of a longer one the rest is left out, and that is said.
pub(crate) const DELIVERY_ANSWER_BYTES: usize = 1024 * 1024;

/// How long a connection to an external may take, with its name looked up and TLS agreed on; then nothing was sent.
pub(crate) const EXTERNAL_CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long the last outcomes may take to get on disk when the gateway ends; then their jobs find out at the next
/// start.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(5);

/// How long the queue's file may take to be closed when the gateway ends; then its log stays beside it, for the next
/// start. With the drain before it and all else, less than the keeper waits.
pub(crate) const QUEUE_CLOSE_TIME: Duration = Duration::from_secs(2);
