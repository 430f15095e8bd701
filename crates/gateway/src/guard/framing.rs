//! Where requests begin and end in what a client sends, and whether that can be read in one way only.
//!
//! Pure: bytes in, verdicts out. Two readers that disagree about the end of a message are how requests are
//! smuggled, so whatever RFC 9112 lets a recipient either repair or refuse is refused here. The verdict does not
//! depend on how the bytes were cut by the network: decisions are taken on whole lines, or byte by byte.

use crate::limits::{CHUNK_EXTENSION_BYTES, HEAD_BYTES, HEAD_FIELDS, TRAILER_BYTES};
use memchr::memchr;

/// Why a client's bytes are not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Not a request as RFC 9112 has it, or one that can be read in two ways. Says what is wrong.
    Malformed(&'static str),
    /// More than [`HEAD_BYTES`] or [`HEAD_FIELDS`]. Says which.
    HeadTooLarge(&'static str),
    /// Another protocol version than HTTP/1.0 and HTTP/1.1.
    Version,
    /// A transfer coding other than `chunked` (RFC 9112, 6.1: 501).
    Coding,
    /// The head did not come in time. Never found here: the connection's deadline says it.
    HeadTime,
}

/// What [`Framing::feed`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fed {
    /// How many of the bytes may be read by others: whole heads, and what there is of bodies.
    pub(crate) pass: usize,
    /// How many heads end in these.
    pub(crate) heads: u64,
    /// Why the byte after these, and all that follow, may not.
    pub(crate) rejection: Option<Rejection>,
    /// Whether what is rejected belongs to a request whose head had passed.
    pub(crate) begun: bool,
}

/// Follows one connection through its requests.
#[derive(Debug)]
pub(crate) struct Framing {
    unit: Unit,
    /// Bytes of the head or trailer section at hand whose lines were checked.
    scanned: usize,
    facts: Facts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Head,
    Body { left: u64 },
    Chunk(Chunk),
    Trailers,
    Rejected(Rejection),
}

/// The place in a chunk (RFC 9112, 7.1). `size` counts the data to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size { digits: u8, size: u64 },
    Extension { bytes: usize, size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
}

/// What a head says so far.
#[derive(Debug, Default)]
struct Facts {
    blank: bool,
    started: bool,
    minor: u8,
    fields: usize,
    hosts: u32,
    length: Option<u64>,
    chunked: bool,
}

enum Progress {
    Done(usize),
    More,
}

/// A chunk's size has at most this many digits, so that it always fits.
const SIZE_DIGITS: u8 = 15;

impl Framing {
    pub(crate) fn new() -> Self {
        Self { unit: Unit::Head, scanned: 0, facts: Facts::default() }
    }

    /// Whether the next byte begins a head, given that all bytes so far were passed.
    pub(crate) fn between_messages(&self) -> bool {
        self.unit == Unit::Head && self.scanned == 0
    }

    /// Reads on. `bytes` are all that were not passed yet, those of earlier calls first: a head, and a trailer
    /// section, pass as a whole or not at all. After a rejection nothing passes any more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut pass = 0;
        let mut heads = 0;
        loop {
            let rest = &bytes[pass..];
            let step = match self.unit {
                Unit::Rejected(why) => Err(why),
                _ if rest.is_empty() => return Fed { pass, heads, rejection: None, begun: false },
                Unit::Head => self.head(rest).inspect(|progress| heads += u64::from(progress.is_done())),
                Unit::Body { left } => Ok(self.body(left, rest.len())),
                Unit::Chunk(chunk) => self.chunk(chunk, rest),
                Unit::Trailers => self.trailers(rest),
            };
            match step {
                Ok(Progress::Done(bytes)) => pass += bytes,
                Ok(Progress::More) => return Fed { pass, heads, rejection: None, begun: false },
                Err(why) => {
                    let begun = matches!(self.unit, Unit::Body { .. } | Unit::Chunk(_) | Unit::Trailers);
                    self.unit = Unit::Rejected(why);
                    return Fed { pass, heads, rejection: Some(why), begun };
                }
            }
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<Progress, Rejection> {
        loop {
            let Some(line) = self.line(rest, HEAD_BYTES)? else { return Ok(Progress::More) };
            if line.is_empty() {
                if self.facts.started {
                    let bytes = self.scanned;
                    self.unit = self.facts.body()?;
                    (self.scanned, self.facts) = (0, Facts::default());
                    return Ok(Progress::Done(bytes));
                }
                // RFC 9112, 2.2: one empty line before the request line is forgiven.
                if self.facts.blank {
                    return Err(Rejection::Malformed("empty lines before the request line"));
                }
                self.facts.blank = true;
            } else if self.facts.started {
                self.facts.field(line)?;
            } else {
                self.facts.request_line(line)?;
            }
        }
    }

    fn body(&mut self, left: u64, there: usize) -> Progress {
        let bytes = usize::try_from(left).map_or(there, |left| left.min(there));
        let left = left - bytes as u64;
        self.unit = if left == 0 { Unit::Head } else { Unit::Body { left } };
        Progress::Done(bytes)
    }

    fn chunk(&mut self, chunk: Chunk, rest: &[u8]) -> Result<Progress, Rejection> {
        let bad = |what| Err(Rejection::Malformed(what));
        if let Chunk::Data { left } = chunk {
            let bytes = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
            let left = left - bytes as u64;
            self.unit = Unit::Chunk(if left == 0 { Chunk::DataCr } else { Chunk::Data { left } });
            return Ok(Progress::Done(bytes));
        }
        let byte = rest[0];
        let next = match (chunk, byte) {
            (Chunk::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS {
                    return bad("a chunk size of more than 15 digits");
                }
                let digit = char::from(byte).to_digit(16).expect("a hexadecimal digit has a value");
                Chunk::Size { digits: digits + 1, size: size * 16 + u64::from(digit) }
            }
            (Chunk::Size { digits: 0, .. }, _) => return bad("a chunk without a size"),
            (Chunk::Size { size, .. }, b'\r') => Chunk::SizeLf { size },
            (Chunk::Size { size, .. }, b';') => Chunk::Extension { bytes: 0, size },
            (Chunk::Size { .. }, _) => return bad("a chunk size that is not hexadecimal"),
            (Chunk::Extension { size, .. }, b'\r') => Chunk::SizeLf { size },
            (Chunk::Extension { .. }, _) if is_control(byte) => {
                return bad("a control character in a chunk extension");
            }
            (Chunk::Extension { bytes, .. }, _) if bytes == CHUNK_EXTENSION_BYTES => {
                return bad("a chunk extension of more than 256 bytes");
            }
            (Chunk::Extension { bytes, size }, _) => Chunk::Extension { bytes: bytes + 1, size },
            (Chunk::SizeLf { size: 0 }, b'\n') => {
                self.unit = Unit::Trailers;
                return Ok(Progress::Done(1));
            }
            (Chunk::SizeLf { size }, b'\n') => Chunk::Data { left: size },
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { digits: 0, size: 0 },
            (Chunk::SizeLf { .. }, _) => return bad("a bare CR after a chunk size"),
            (Chunk::DataCr | Chunk::DataLf | Chunk::Data { .. }, _) => {
                return bad("chunk data that does not end where its size says");
            }
        };
        self.unit = Unit::Chunk(next);
        Ok(Progress::Done(1))
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<Progress, Rejection> {
        loop {
            let Some(line) = self.line(rest, TRAILER_BYTES)? else { return Ok(Progress::More) };
            if line.is_empty() {
                let bytes = self.scanned;
                (self.unit, self.scanned, self.facts) = (Unit::Head, 0, Facts::default());
                return Ok(Progress::Done(bytes));
            }
            self.facts.count_field()?;
            field_name(line)?;
        }
    }

    /// The next whole line without its end, or None when it is not all there.
    fn line<'a>(&mut self, rest: &'a [u8], limit: usize) -> Result<Option<&'a [u8]>, Rejection> {
        let too_large = Err(Rejection::HeadTooLarge("bytes"));
        let Some(length) = memchr(b'\n', &rest[self.scanned..]) else {
            return if rest.len() > limit { too_large } else { Ok(None) };
        };
        let start = self.scanned;
        let end = start + length;
        if end >= limit {
            return too_large;
        }
        self.scanned = end + 1;
        match rest[start..end].strip_suffix(b"\r") {
            Some(line) if line.iter().fold(false, |bad, byte| bad | is_control(*byte)) => {
                Err(Rejection::Malformed("a control character or bare CR in the head"))
            }
            Some(line) => Ok(Some(line)),
            None => Err(Rejection::Malformed("a line that ends without CR")),
        }
    }
}

impl Progress {
    fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

impl Facts {
    /// RFC 9112, 3: method, target, version, one space between them.
    fn request_line(&mut self, line: &[u8]) -> Result<(), Rejection> {
        let bad = Rejection::Malformed("a request line that is not method, target and version");
        self.started = true;
        let method = memchr(b' ', line).ok_or(bad)?;
        let target = memchr(b' ', &line[method + 1..]).ok_or(bad)?;
        let version = &line[method + 1 + target + 1..];
        if method == 0 || target == 0 || !line[..method].iter().all(|b| is_token(*b)) {
            return Err(bad);
        }
        // No target has other bytes (RFC 3986). Some that it should not have either are common and harmless; those
        // named here end or begin something for some readers, and hyper refuses them too.
        let odd = |byte: &u8| !byte.is_ascii_graphic() || matches!(byte, b'#' | b'"' | b'<' | b'>' | b'`');
        if line[method + 1..method + 1 + target].iter().fold(false, |bad, byte| bad | odd(byte)) {
            return Err(Rejection::Malformed("a target with bytes that no target has"));
        }
        self.minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            _ if version.starts_with(b"HTTP/") && !version.contains(&b' ') => return Err(Rejection::Version),
            _ => return Err(bad),
        };
        Ok(())
    }

    fn count_field(&mut self) -> Result<(), Rejection> {
        self.fields += 1;
        if self.fields > HEAD_FIELDS { Err(Rejection::HeadTooLarge("fields")) } else { Ok(()) }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Rejection> {
        self.count_field()?;
        let name = field_name(line)?;
        let value = || line[name.len() + 1..].trim_ascii();
        // Lengths first: most fields are none of the three.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value()),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value()),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value()),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Rejection> {
        self.hosts += 1;
        // RFC 9110, 7.2: host and port, so nothing of what would end an authority (RFC 3986, 3.2).
        let ends = |b: &u8| matches!(b, b' ' | b'\t' | b'/' | b'\\' | b'?' | b'#' | b'@' | b',' | b'"');
        if value.iter().any(ends) {
            return Err(Rejection::Malformed("a Host that is not a host and port"));
        }
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.length.is_some() {
            return Err(Rejection::Malformed("more than one Content-Length"));
        }
        // Digits alone: `+5`, `5, 5` and ` ` are read differently by different readers.
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        // The two largest values mean something else to hyper.
        match number {
            Some(length) if length < u64::MAX - 2 => self.length = Some(length),
            _ => return Err(Rejection::Malformed("a Content-Length that is not a number")),
        }
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.chunked {
            return Err(Rejection::Malformed("more than one Transfer-Encoding"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        let last = value.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii();
        if last.eq_ignore_ascii_case(b"chunked") {
            Err(Rejection::Coding)
        } else {
            Err(Rejection::Malformed("a Transfer-Encoding that does not end in chunked"))
        }
    }

    /// RFC 9112, 6.3, as strictly as it allows.
    fn body(&self) -> Result<Unit, Rejection> {
        let bad = |what| Err(Rejection::Malformed(what));
        match (self.hosts, self.minor) {
            (1, _) | (0, 0) => {}
            (0, _) => return bad("no Host"),
            (_, _) => return bad("more than one Host"),
        }
        match (self.length, self.chunked) {
            (Some(_), true) => bad("both Content-Length and Transfer-Encoding"),
            (None, true) if self.minor == 0 => bad("Transfer-Encoding in HTTP/1.0"),
            (None, true) => Ok(Unit::Chunk(Chunk::Size { digits: 0, size: 0 })),
            (None | Some(0), false) => Ok(Unit::Head),
            (Some(left), false) => Ok(Unit::Body { left }),
        }
    }
}

/// The name before the colon. A line that begins with white space would be folded onto the one before
/// (obs-fold, RFC 9112, 5.2), and white space before the colon is read differently by different readers.
fn field_name(line: &[u8]) -> Result<&[u8], Rejection> {
    let end = line.iter().position(|b| !is_token(*b)).unwrap_or(line.len());
    match line.get(end) {
        Some(b':') if end > 0 => Ok(&line[..end]),
        Some(b' ' | b'\t') if end == 0 => Err(Rejection::Malformed("a folded field line")),
        Some(b' ' | b'\t') => Err(Rejection::Malformed("white space before a colon")),
        Some(_) | None => Err(Rejection::Malformed("a field line without a proper name")),
    }
}

/// What no head may hold, even in a quoted text (RFC 9110, 5.5). Tabs are white space.
fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric()
                || matches!(
                    byte as u8,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            byte += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

#[cfg(test)]
mod tests;
