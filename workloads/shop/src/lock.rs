//! `shop lock`: takes the database away from everybody who wants to write, for a while, as a migration that went
//! wrong or an operator's forgotten transaction would. Reads go on.

use std::io::{Read as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::database::{OpenError, Target, WriteLock};
use crate::release::Release;

/// The longest that a lock is held, whoever asks.
pub(crate) const LONGEST: Duration = Duration::from_secs(600);

/// Why the database could not be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// There is no database, or others held it for too long.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Nobody reads what is printed.
    #[error("cannot print")]
    Print(#[source] std::io::Error),
    /// The system gives no thread to read standard input with.
    #[error("cannot read standard input")]
    Input(#[source] std::io::Error),
}

/// Keeps everybody else from writing for `time`, or, without one, until standard input ends, at most for `LONGEST`.
/// Prints a line to standard output once it has the lock. However the process ends, the lock ends with it.
pub(crate) fn hold(target: &Target, time: Option<Duration>) -> Result<(), LockError> {
    let lock = WriteLock::take(target, Release::V1)?;
    let until = match time {
        Some(time) => format!("for {} ms", time.as_millis()),
        None => "until standard input ends".to_owned(),
    };
    let mut out = std::io::stdout();
    writeln!(out, "{target}: locked {until}").and_then(|()| out.flush()).map_err(LockError::Print)?;
    match time {
        Some(time) => std::thread::sleep(time.min(LONGEST)),
        None => input_ends()?,
    }
    lock.release();
    crate::log(&format!("{target}: not locked any longer"));
    Ok(())
}

/// Waits for the end of standard input, at most for `LONGEST`.
fn input_ends() -> Result<(), LockError> {
    let (ended, end) = channel();
    // It may be in a read for ever; the end of the process ends it.
    let reading = move || {
        let mut input = std::io::stdin().lock();
        let mut bytes = [0; 512];
        while matches!(input.read(&mut bytes), Ok(read) if read > 0) {}
        // Nobody waits any longer when the time was over first.
        let _ = ended.send(());
    };
    std::thread::Builder::new().name("shop-input".to_owned()).spawn(reading).map_err(LockError::Input)?;
    match end.recv_timeout(LONGEST) {
        Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(()),
    }
}

/// A time in milliseconds, seconds or minutes: `500ms`, `15s`, `2m`; longer than nothing, at most `LONGEST`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let hint = "hint: as in 500ms, 15s or 2m, up to 10m";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        other => return Err(format!("`{other}` is no unit of time; {hint}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{number}` is no number; {hint}"))?;
    let time = Duration::from_millis(number.saturating_mul(unit));
    if time.is_zero() || time > LONGEST {
        return Err(format!("it is longer than nothing and at most {} s; {hint}", LONGEST.as_secs()));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_an_end() {
        let table = [
            ("1ms", Some(1)),
            ("15s", Some(15_000)),
            ("10m", Some(600_000)),
            ("0s", None),
            ("11m", None),
            ("601s", None),
            ("15", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615m", None),
        ];
        for (text, expected) in table {
            assert_eq!(time(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
    }
}
