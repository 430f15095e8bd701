//! Keeping an instance's log short while the instance goes on writing to it.
//!
//! The instance holds the file open, so the file cannot be renamed away; it is opened for appending, so it
//! may be shortened. Where the file system can cut whole blocks out of the front of a file
//! (FALLOC_FL_COLLAPSE_RANGE: ext4, xfs), nothing is lost and nothing is written twice. Elsewhere the file is
//! copied and then emptied; a line written between the last look and the emptying is lost, a matter of
//! microseconds once in 16 MiB.

use rustix::fs::{FallocateFlags, fallocate};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The size from which a log is shortened: 16 MiB.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// How many older pieces are kept, as `.1` (the latest) to `.3`; the oldest is removed.
const PIECES: u32 = 3;

/// What is cut out of the front is a multiple of this many bytes: a multiple of the block size wherever
/// blocks have at most 64 KiB. Where they are larger the kernel refuses, and the log is copied and emptied.
const UNIT: u64 = 64 * 1024;

/// Shortens the log if it is over the limit, and says whether it was.
pub(super) fn rotate(log: &Path) -> io::Result<bool> {
    rotate_with(log, LOG_LIMIT, collapse)
}

fn collapse(file: &File, bytes: u64) -> rustix::io::Result<()> {
    fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, bytes)
}

fn rotate_with(
    log: &Path,
    limit: u64,
    collapse: impl Fn(&File, u64) -> rustix::io::Result<()>,
) -> io::Result<bool> {
    let size = match std::fs::metadata(log) {
        Ok(meta) => meta.len(),
        // Somebody moved it away; the instance writes on into the file it has.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(cause),
    };
    // The range must end before the end of the file (fallocate(2)).
    let front = size.saturating_sub(1) / UNIT * UNIT;
    if size <= limit || front == 0 {
        return Ok(false);
    }
    let mut file = OpenOptions::new().read(true).write(true).open(log)?;
    let fresh = piece(log, "new");
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    io::copy(&mut io::Read::take(&mut file, front), &mut copy)?;
    copy.sync_data()?;
    // The pieces are moved before the front is cut off: whatever dies in between leaves lines twice rather
    // than never.
    shift(log)?;
    std::fs::rename(&fresh, piece(log, "1"))?;
    if collapse(&file, front).is_ok() {
        return Ok(true);
    }
    file.seek(SeekFrom::Start(front))?;
    // Until nothing is left to copy, which also means: as late as possible.
    io::copy(&mut file, &mut copy)?;
    file.set_len(0)?;
    Ok(true)
}

fn piece(log: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(log);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn shift(log: &Path) -> io::Result<()> {
    for number in (1..PIECES).rev() {
        match std::fs::rename(piece(log, &number.to_string()), piece(log, &(number + 1).to_string())) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    type Collapse = fn(&File, u64) -> rustix::io::Result<()>;

    /// Writes numbered lines, rotates in between, and reads back all that is kept.
    fn lines_after(rounds: u32, collapse: Collapse) -> Vec<u32> {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("it.log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        let mut number = 0;
        for _ in 0..rounds {
            for _ in 0..5000 {
                writeln!(writer, "{number:030}").unwrap();
                number += 1;
            }
            assert!(rotate_with(&log, 100_000, collapse).unwrap());
            assert!(!rotate_with(&log, 100_000, collapse).unwrap(), "it is short now");
        }
        let mut text = String::new();
        for name in [piece(&log, "3"), piece(&log, "2"), piece(&log, "1"), log] {
            text.push_str(&std::fs::read_to_string(name).unwrap_or_default());
        }
        assert!(!folder.path().join("it.log.4").exists());
        assert!(!folder.path().join("it.log.new").exists());
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn refuse(_: &File, _: u64) -> rustix::io::Result<()> {
        Err(rustix::io::Errno::OPNOTSUPP)
    }

    #[test]
    fn no_line_is_lost_and_none_is_there_twice() {
        for how in [collapse as Collapse, refuse] {
            assert_eq!(lines_after(3, how), (0..15_000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_oldest_piece_goes() {
        let lines = lines_after(6, refuse);
        assert_eq!(lines, (15_000..30_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_log_below_the_limit_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("it.log");
        std::fs::write(&log, vec![b'x'; 100_000]).unwrap();
        assert!(!rotate_with(&log, 100_000, refuse).unwrap());
        assert!(!rotate_with(&folder.path().join("none"), 1, refuse).unwrap());
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 100_000);
    }
}
