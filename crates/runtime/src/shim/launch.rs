//! Starting the instance's first process, and saying why it did not start.

use crate::artifacts::find;
use api::shim::Start;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// How much of a script's first line is read to name its interpreter; the kernel reads as much
/// (BINPRM_BUF_SIZE).
const FIRST_LINE: u64 = 256;

/// Starts the command and returns its process number, which is also its process group.
///
/// # Errors
/// The reason, for people.
pub(super) fn launch(start: &Start) -> Result<u32, String> {
    let [program, arguments @ ..] = start.command.as_slice() else {
        return Err("the command is empty".to_owned());
    };
    if !start.folder.is_dir() {
        return Err(format!("the folder {} does not exist", start.folder.display()));
    }
    let path = start.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| OsStr::new(value));
    let executable = find(program, &start.folder, path).map_err(|error| match error.hint() {
        Some(hint) => format!("{error}; hint: {hint}"),
        None => error.to_string(),
    })?;
    let log = open_log(&start.log).map_err(|e| format!("the log {}: {e}", start.log.display()))?;
    let errors = log.try_clone().map_err(|e| format!("the log {}: {e}", start.log.display()))?;
    let mut command = Command::new(&executable);
    command
        .arg0(program)
        .args(arguments)
        .current_dir(&start.folder)
        .env_clear()
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0);
    let child = match start.open_files {
        Some(limit) => with_open_files(limit, || command.spawn().map_err(|e| explain(&executable, &e)))?,
        None => command.spawn().map_err(|e| explain(&executable, &e))?,
    };
    // Waited for by number, together with all others of the family.
    Ok(child.id())
}

/// Opened for appending: the kernel then writes each piece at what is the end at that moment, so the shim
/// may shorten the file meanwhile.
fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Runs `spawn` under the limit, as the child inherits it, and gives the shim its own back: it must be able
/// to open files whatever its instance may. The hard limit can only be lowered, so it is lowered for the
/// child alone, once there is one.
fn with_open_files(
    limit: u64,
    spawn: impl FnOnce() -> Result<std::process::Child, String>,
) -> Result<std::process::Child, String> {
    let own = getrlimit(Resource::Nofile);
    let hard = own.maximum.map_or(limit, |maximum| maximum.max(limit));
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(hard) }).map_err(|cause| {
        format!(
            "open_files = {limit} is more than this user may have ({}): {cause}; hint: lower it, or raise \
             LimitNOFILE of the service",
            own.maximum.map_or_else(|| "unlimited".to_owned(), |maximum| maximum.to_string())
        )
    })?;
    let child = spawn();
    let _ = setrlimit(Resource::Nofile, Rlimit { current: own.current, maximum: Some(hard) });
    if let Ok(child) = &child {
        // One that has ended already needs no limit.
        let _ = prlimit(
            Some(Pid::from_child(child)),
            Resource::Nofile,
            Rlimit { current: Some(limit), maximum: Some(limit) },
        );
    }
    child
}

/// What an error of execve(2) means for a file that is there and executable.
fn explain(executable: &Path, cause: &io::Error) -> String {
    let name = executable.display();
    match cause.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT) => match interpreter(executable) {
            Some(interpreter) => format!(
                "{name} cannot be executed: its first line names the interpreter `{interpreter}`, which does \
                 not exist"
            ),
            None => format!(
                "{name} cannot be executed: the loader it was linked for does not exist; hint: was it built \
                 for another system (musl and glibc, arm and x86)?"
            ),
        },
        Some(rustix::io::Errno::NOEXEC) => format!(
            "{name} cannot be executed: it is no program of this machine and its first line does not begin \
             with #!"
        ),
        Some(rustix::io::Errno::ACCESS) => format!(
            "{name} cannot be executed: permission denied; hint: is its file system mounted noexec, or a \
             folder above it closed to this user?"
        ),
        Some(_) | None => format!("{name} cannot be executed: {cause}"),
    }
}

fn interpreter(path: &Path) -> Option<String> {
    let mut first = Vec::new();
    File::open(path).ok()?.take(FIRST_LINE).read_to_end(&mut first).ok()?;
    let line = String::from_utf8_lossy(&first);
    let named = line.strip_prefix("#!")?.lines().next()?.split_ascii_whitespace().next()?;
    Some(named.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_cannot_be_executed_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let table = [
            ("#!/no/such/python\n", Errno::NOENT, "the interpreter `/no/such/python`, which does not exist"),
            ("\u{7f}ELF", Errno::NOENT, "another system"),
            ("text", Errno::NOEXEC, "does not begin with #!"),
            ("text", Errno::ACCESS, "noexec"),
            ("text", Errno::TXTBSY, "busy"),
        ];
        for (text, errno, expected) in table {
            let path = folder.path().join("it");
            std::fs::write(&path, text).unwrap();
            let explained = explain(&path, &io::Error::from(errno));
            assert!(explained.contains(expected) && explained.contains("/it "), "{explained}");
        }
    }

    #[test]
    fn the_log_is_this_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let mode = open_log(&path).unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
