//! Files of the artifact of a stamp that has stopped.
//!
//! Never outside the folder that the route names: the path is decoded once, a part of it that could lead elsewhere
//! is refused, and the kernel resolves what is left beneath the folder (`RESOLVE_BENEATH`), whatever links say.

use crate::body::AnswerBody;
use crate::limits::FILE_CHUNK;
use api::folder::StateFolder;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{Response, StatusCode};
use model::name::Digest;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, ReadBuf};

/// A file that was found.
pub(crate) struct Found {
    file: std::fs::File,
    length: u64,
    kind: &'static str,
    tag: HeaderValue,
}

/// A file on its way to a client.
pub(crate) struct FileBody {
    file: tokio::fs::File,
    left: u64,
    chunk: Box<[u8]>,
}

/// The file at `path`, which is a URL's, in the folder `files` of an artifact. None: there is none.
pub(crate) async fn find(folder: &StateFolder, artifact: &Digest, files: &str, path: &str) -> Option<Found> {
    let relative = relative(path)?;
    let kind = content_type(&relative);
    // What an artifact holds never changes, so a digest and a path name the bytes.
    let tag = HeaderValue::try_from(format!("\"{}\"", artifact.hex())).ok()?;
    let (root, files) = (folder.artifact(artifact), files.to_owned());
    // The disk may take its time; other requests of this worker must not wait for it.
    let opened = tokio::task::spawn_blocking(move || open(&root, &files, &relative)).await.ok()?;
    match opened {
        Ok(opened) => opened.map(|(file, length)| Found { file, length, kind, tag }),
        Err(cause) => {
            tracing::debug!(%cause, path, "no file of the stamp before");
            None
        }
    }
}

fn open(root: &std::path::Path, files: &str, relative: &str) -> io::Result<Option<(std::fs::File, u64)>> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, folder, Mode::empty())?;
    let files = openat2(&root, files, folder, Mode::empty(), beneath)?;
    // A pipe would block until somebody writes to it.
    let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::File::from(openat2(&files, relative, read, Mode::empty(), beneath)?);
    let meta = file.metadata()?;
    Ok(meta.is_file().then_some((file, meta.len())))
}

impl Found {
    /// The answer, to a request with these fields. It says nothing of caching but its tag (RFC 9110, 8.8.3).
    pub(crate) fn answer(
        self,
        fields: &[(HeaderName, HeaderValue)],
        head_only: bool,
    ) -> Response<AnswerBody> {
        let known = fields.iter().filter(|(name, _)| *name == IF_NONE_MATCH);
        let known = known.filter_map(|(_, value)| value.to_str().ok()).flat_map(|value| value.split(','));
        // RFC 9110, 13.1.2: compared weakly.
        let is_it =
            |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == self.tag.as_bytes();
        let unchanged = known.map(str::trim).any(is_it);
        let body = match head_only || unchanged {
            true => AnswerBody::own(Bytes::new()),
            false => AnswerBody::file(FileBody::new(self.file, self.length)),
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(ETAG, self.tag);
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
            response.headers_mut().insert(CONTENT_LENGTH, self.length.into());
        }
        response
    }
}

impl FileBody {
    fn new(file: std::fs::File, length: u64) -> Self {
        let chunk = usize::try_from(length).unwrap_or(FILE_CHUNK).min(FILE_CHUNK);
        Self { file: file.into(), left: length, chunk: vec![0; chunk].into_boxed_slice() }
    }

    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next of them. Not to be called when none are left.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let room = usize::try_from(self.left).unwrap_or(FILE_CHUNK).min(self.chunk.len());
        let mut buffer = ReadBuf::new(&mut self.chunk[..room]);
        ready!(Pin::new(&mut self.file).poll_read(cx, &mut buffer))?;
        let bytes = Bytes::copy_from_slice(buffer.filled());
        self.left -= bytes.len() as u64;
        match bytes.is_empty() {
            true => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            false => Poll::Ready(Ok(bytes)),
        }
    }
}

/// A URL's path as one relative to a folder, decoded once (RFC 3986, 2.4). None: it names no file, or could name one
/// outside.
fn relative(path: &str) -> Option<String> {
    let parts = path.strip_prefix('/')?.split('/').map(part);
    let parts: Option<Vec<String>> = parts.collect();
    Some(parts?.join("/"))
}

fn part(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes().iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => *other,
        });
    }
    let part = String::from_utf8(bytes).ok()?;
    let leads_elsewhere = matches!(part.as_str(), "" | "." | "..") || part.contains(['/', '\0']);
    (!leads_elsewhere).then_some(part)
}

/// The media type of a file by the end of its name: of those that pages are made of.
fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        // RFC 9239, 6.
        "js" | "mjs" | "cjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/vnd.microsoft.icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_what_lies_in_the_folder_or_nothing() {
        for (path, expected) in [
            ("/assets/a.js", Some("assets/a.js")),
            ("/a%20b", Some("a b")),
            ("/%2561", Some("%61")),
            ("/..%2e", Some("...")),
            ("/a..b", Some("a..b")),
            ("/", None),
            ("/a/", None),
            ("//a", None),
            ("/..", None),
            ("/a/../b", None),
            ("/%2e%2E/b", None),
            ("/.%2e/b", None),
            ("/./b", None),
            ("/a%2fb", None),
            ("/a%00", None),
            ("/%ff", None),
            ("/%4", None),
            ("/%zz", None),
            ("a", None),
            ("*", None),
        ] {
            assert_eq!(relative(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_type_is_known_by_the_end_of_a_name() {
        for (name, kind) in [
            ("assets/app-1a2b.JS", "text/javascript; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.unknown", "application/octet-stream"),
            ("css", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), kind, "{name}");
        }
    }
}
