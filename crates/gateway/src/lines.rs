//! Access lines on their way to the file: gathered by each worker, written by one thread.

use crate::limits::{LINES_BYTES, LINES_WAITING, LOG_BYTES, LOG_FILES};
use crate::metrics::Counts;
use crate::worker::Shared;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Lines of one worker, whole ones.
pub(crate) struct Bundle {
    text: Vec<u8>,
    lines: u64,
}

/// One worker's lines.
pub(crate) struct Lines {
    gathered: Bundle,
    writer: SyncSender<Bundle>,
}

impl Lines {
    pub(crate) fn new(writer: SyncSender<Bundle>) -> Self {
        Self { gathered: Bundle { text: Vec::new(), lines: 0 }, writer }
    }

    /// Others for the same file, which are handed over apart.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.writer.clone())
    }

    /// Adds a line, which ends in a line feed.
    pub(crate) fn write(&mut self, line: &[u8], counts: &Counts) {
        self.gathered.text.extend_from_slice(line);
        self.gathered.lines += 1;
        if self.gathered.text.len() >= LINES_BYTES {
            self.hand_over(counts);
        }
    }

    /// Hands what was gathered to the writer. If that is [`LINES_WAITING`] behind, it is dropped and counted:
    /// requests do not wait for a disk.
    pub(crate) fn hand_over(&mut self, counts: &Counts) {
        if self.gathered.lines == 0 {
            return;
        }
        let room = self.gathered.text.capacity();
        let bundle =
            std::mem::replace(&mut self.gathered, Bundle { text: Vec::with_capacity(room), lines: 0 });
        let lines = bundle.lines;
        if self.writer.try_send(bundle).is_err() {
            counts.lines_dropped.add(lines);
        }
    }
}

/// Starts the thread that writes to `path`. It ends when the last sender is dropped.
///
/// # Errors
/// The operating system has no thread to give.
pub(crate) fn start(path: PathBuf, shared: Arc<Shared>) -> io::Result<(SyncSender<Bundle>, JoinHandle<()>)> {
    let (sender, receiver) = sync_channel(LINES_WAITING);
    let thread = std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || write(&path, &receiver, &shared))?;
    Ok((sender, thread))
}

fn write(path: &Path, bundles: &Receiver<Bundle>, shared: &Shared) {
    let mut log: Option<Log> = None;
    while let Ok(bundle) = bundles.recv() {
        let written = match &mut log {
            Some(log) => log.append(path, &bundle.text),
            None => Log::open(path).and_then(|open| log.insert(open).append(path, &bundle.text)),
        };
        if let Err(cause) = written {
            if log.is_some() {
                tracing::warn!(path = %path.display(), %cause, "access lines cannot be written");
            }
            // Opened anew for the next bundle: the folder may have been moved, or the disk has room again.
            log = None;
            shared.metrics.lines_failed.fetch_add(bundle.lines, Ordering::Relaxed);
        }
    }
}

struct Log {
    file: File,
    bytes: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    fn append(&mut self, path: &Path, text: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + text.len() as u64 > LOG_BYTES {
            rotate(path)?;
            *self = Self::open(path)?;
        }
        self.file.write_all(text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// `access.log` becomes `access.log.1`, and so on; the oldest is replaced.
fn rotate(path: &Path) -> io::Result<()> {
    let aside = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..LOG_FILES).rev() {
        match fs::rename(aside(number), aside(number + 1)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            Ok(()) | Err(_) => {}
        }
    }
    fs::rename(path, aside(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_full_log_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        for round in 0..LOG_FILES + 3 {
            let mut log = Log::open(&path).unwrap();
            log.append(&path, format!("{round}\n").as_bytes()).unwrap();
            log.bytes = LOG_BYTES;
            log.append(&path, b"new\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
            fs::write(&path, "").unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["access.log", "access.log.1", "access.log.2", "access.log.3", "access.log.4"]);
        let newest = fs::read_to_string(folder.path().join("access.log.1")).unwrap();
        assert_eq!(newest, format!("{}\n", LOG_FILES + 2));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_writer_that_is_behind_costs_lines_and_not_time() {
        let (sender, receiver) = sync_channel(1);
        let mut lines = Lines::new(sender);
        let counts = Counts::default();
        for _ in 0..3 {
            lines.write(b"{}\n", &counts);
            lines.hand_over(&counts);
        }
        assert_eq!(counts.lines_dropped.get(), 2);
        assert_eq!(receiver.recv().unwrap().text, b"{}\n");
    }
}
