//! Which `initdb` and `postgres` of this machine to use, and as whom.

use super::{MAKE_LIMIT, PrepareError};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where distributions keep the programs, each major version in a folder of its own: Debian and those after it, and
/// the packages of postgresql.org for Red Hat and those after it.
const PLACES: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// Where programs are looked for when this process was given no PATH.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How long a program may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// The most bytes that are kept of what a program says last.
const SAID_LIMIT: usize = 2000;

/// How a user namespace is entered in which this user is called nobody, in which PostgreSQL does not recognise root.
const AS_NOBODY: [&str; 4] = ["unshare", "--map-user=65534", "--map-group=65534", "--"];

/// The programs of one version.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    bin: PathBuf,
    path: OsString,
    as_nobody: bool,
}

impl Programs {
    /// The programs that can work on `data`, which was made by this major version; any if there is none yet. The
    /// first in PATH that fit, otherwise the newest.
    pub(super) async fn find(data: &Path, made_by: Option<u32>) -> Result<Self, PrepareError> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
        let mut found = BTreeSet::new();
        for bin in folders(&path, &PLACES) {
            let programs = Self { bin, path: path.clone(), as_nobody: rustix::process::geteuid().is_root() };
            let Some(major) = programs.major().await? else { continue };
            if made_by.is_none_or(|wanted| wanted == major) {
                return Ok(programs);
            }
            found.insert(major);
        }
        match made_by {
            Some(wanted) if !found.is_empty() => Err(PrepareError::Version {
                data: data.to_owned(),
                wanted,
                found: found.into_iter().collect(),
            }),
            Some(_) | None => Err(PrepareError::Missing {
                places: PLACES.iter().map(|(folder, prefix)| format!("{folder}/{prefix}*/bin")).collect(),
            }),
        }
    }

    /// Program and first arguments, to be run as who it can be run as.
    pub(super) fn words(&self, program: &str) -> Vec<String> {
        let wrapper = if self.as_nobody { AS_NOBODY.as_slice() } else { &[] };
        let mut words: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
        words.push(self.bin.join(program).to_string_lossy().into_owned());
        words
    }

    /// The environment they run in. Nothing of this process's: a PGDATA or PGOPTIONS in it is about another server.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let path = self.path.to_string_lossy().into_owned();
        vec![("PATH".to_owned(), path), ("LC_ALL".to_owned(), "C".to_owned())]
    }

    /// The major version; None when the program does not say. Also shows that a user namespace can be made, where
    /// one is needed.
    async fn major(&self) -> Result<Option<u32>, PrepareError> {
        let mut command = self.command("postgres");
        command.arg("--version");
        let (said, complaint) = match finish(command, "", VERSION_LIMIT).await {
            Ok(said) => (said, String::new()),
            Err(Failed::NotFound) => (String::new(), "there is no command `unshare`".to_owned()),
            Err(Failed::Otherwise(complaint)) => (String::new(), complaint),
        };
        if self.as_nobody && (complaint.contains("unshare") || complaint.contains("cannot be executed")) {
            return Err(PrepareError::Namespace { said: complaint });
        }
        Ok(parse_major(&said))
    }

    fn command(&self, program: &str) -> Command {
        let words = self.words(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.environment());
        // A folder that is there for everybody: initdb and postgres complain of one they may not read.
        command.current_dir("/");
        command
    }

    /// Runs a program to its end, with this on its standard input.
    pub(super) async fn run(
        &self,
        program: &str,
        arguments: &[&OsStr],
        input: &str,
    ) -> Result<(), PrepareError> {
        let mut command = self.command(program);
        command.args(arguments);
        match finish(command, input, MAKE_LIMIT).await {
            Ok(_) => Ok(()),
            Err(Failed::NotFound) => {
                Err(PrepareError::Program { program: program.to_owned(), said: "is not there".to_owned() })
            }
            Err(Failed::Otherwise(said)) => Err(PrepareError::Program { program: program.to_owned(), said }),
        }
    }
}

enum Failed {
    NotFound,
    /// Goes after the program's name.
    Otherwise(String),
}

/// What the program printed. It is killed when it takes too long, or when this is dropped.
async fn finish(mut command: Command, input: &str, limit: Duration) -> Result<String, Failed> {
    let spawned = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(Failed::NotFound),
        Err(cause) => return Err(Failed::Otherwise(format!("cannot be executed: {cause}"))),
    };
    let mut stdin = child.stdin.take().expect("it was piped");
    let done = async {
        // One that ends without reading it says why elsewhere.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(limit, done).await {
        Ok(Ok(output)) => output,
        Ok(Err(cause)) => return Err(Failed::Otherwise(format!("cannot be waited for: {cause}"))),
        Err(_) => return Err(Failed::Otherwise(format!("was not done within {limit:?}"))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = &output.stderr[output.stderr.len().saturating_sub(SAID_LIMIT)..];
    let complaint = String::from_utf8_lossy(complaint);
    Err(Failed::Otherwise(format!("failed ({}): {}", output.status, complaint.trim())))
}

/// The folders with both programs: those of PATH first, then the newest version first. Each once, by its real name,
/// as PATH often holds links to one of them.
fn folders(path: &OsStr, places: &[(&str, &str)]) -> Vec<PathBuf> {
    let mut versions = Vec::new();
    for (place, prefix) in places {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
            versions.extend(version.map(|version| (version, entry.path().join("bin"))));
        }
    }
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let in_path = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in in_path.chain(versions.into_iter().map(|(_, bin)| bin)) {
        // initdb looks for postgres beside what it really is.
        let Some(bin) =
            std::fs::canonicalize(folder.join("initdb")).ok().and_then(|p| Some(p.parent()?.to_owned()))
        else {
            continue;
        };
        if is_program(&bin.join("initdb")) && is_program(&bin.join("postgres")) && !found.contains(&bin) {
            found.push(bin);
        }
    }
    found
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or `17beta1`.
fn parse_major(said: &str) -> Option<u32> {
    let version = said.split_once("(PostgreSQL) ")?.1;
    leading_number(version)
}

/// The number a text begins with: of `15.18`, `15`.
pub(super) fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_the_program_says_it() {
        let table = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 17beta1", Some(17)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres (PostgreSQL) devel", None),
            ("", None),
        ];
        for (said, major) in table {
            assert_eq!(parse_major(said), major, "{said}");
        }
    }

    #[test]
    fn folders_of_path_come_first_then_the_newest_version() {
        let root = tempfile::tempdir().unwrap();
        let program = |path: &str, mode: u32| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for bin in ["lib/9/bin", "lib/10/bin", "lib/x/bin", "own/pgsql-12/bin", "path"] {
            program(&format!("{bin}/initdb"), 0o755);
            program(&format!("{bin}/postgres"), 0o755);
        }
        program("half/initdb", 0o755);
        program("plain/initdb", 0o755);
        program("plain/postgres", 0o644);
        std::fs::create_dir(root.path().join("links")).unwrap();
        std::os::unix::fs::symlink(root.path().join("lib/9/bin/initdb"), root.path().join("links/initdb"))
            .unwrap();

        let at = |name: &str| std::fs::canonicalize(root.path()).unwrap().join(name);
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        let (lib, own) = (text("lib"), text("own"));
        let path =
            std::env::join_paths(["half", "nowhere", "plain", "path", "links", "path"].map(at)).unwrap();
        let found = folders(&path, &[(lib.as_str(), ""), (own.as_str(), "pgsql-")]);
        assert_eq!(found, ["path", "lib/9/bin", "own/pgsql-12/bin", "lib/10/bin"].map(at));
    }

    #[tokio::test]
    async fn a_program_that_fails_or_takes_too_long_is_quoted() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let outcome = async |script: &str, limit| match finish(shell(script), "in", limit).await {
            Ok(said) => said,
            Err(Failed::NotFound) => "not found".to_owned(),
            Err(Failed::Otherwise(complaint)) => complaint,
        };
        let long = Duration::from_secs(30);
        assert_eq!(outcome("cat; echo aside >&2", long).await, "in");
        assert_eq!(outcome("echo why >&2; exit 3", long).await, "failed (exit status: 3): why");
        assert_eq!(outcome("exec sleep 1000", Duration::from_millis(20)).await, "was not done within 20ms");
    }
}
