//! Finding the executable that a command names, as a shell does.

use model::name::Digest;
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How like a name must be (Jaro-Winkler) to be proposed.
const LIKENESS: f64 = 0.85;

/// How many names are compared for a proposal; the search path of a machine has a few thousand.
const NAMES_LIMIT: usize = 20_000;

/// Why a command has no executable.
#[derive(Debug, thiserror::Error)]
pub enum ExecutableError {
    /// There is no file of that name.
    #[error("there is no command `{program}`{}", places(.searched))]
    NotFound {
        /// The name, as given.
        program: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
        /// What was perhaps meant.
        nearest: Option<String>,
    },
    /// There is a file, but nobody may execute it.
    #[error("{} is not executable", .path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// It is a folder.
    #[error("{} is a folder, not a command", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{} cannot be read: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

fn places(searched: &[PathBuf]) -> String {
    match searched {
        [] => ": the search path is empty".to_owned(),
        [one] => format!(" in {}", one.display()),
        many => format!(" in any of the {} folders of the search path", many.len()),
    }
}

impl ExecutableError {
    /// What to do next, when there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { nearest, .. } => {
                nearest.as_ref().map(|nearest| format!("did you mean `{nearest}`?"))
            }
            Self::NotExecutable { path } => Some(format!("chmod +x {}", path.display())),
            Self::Folder { .. } => Some("name the file in it that is to run".to_owned()),
            Self::Read { .. } => Some("it must be readable to be bound to the release".to_owned()),
        }
    }
}

/// Finds the executable a command names, and the digest of its bytes. With a `/` in it the name is a path,
/// relative to `folder`; otherwise each folder of `path_variable` is tried (a relative or empty one counts
/// from `folder`), passing over files that are not executable. Blocking: it reads the whole file.
///
/// # Errors
/// See [`ExecutableError`].
pub fn executable(
    program: &str,
    folder: &Path,
    path_variable: Option<&OsStr>,
) -> Result<(PathBuf, Digest), ExecutableError> {
    let path = find(program, folder, path_variable)?;
    match digest_bytes(&path) {
        Ok(hash) => Ok((path, Digest::from_bytes(hash))),
        Err(cause) => Err(ExecutableError::Read { path, cause }),
    }
}

/// The path of the executable a command names.
pub(crate) fn find(
    program: &str,
    folder: &Path,
    path_variable: Option<&OsStr>,
) -> Result<PathBuf, ExecutableError> {
    if program.contains('/') {
        let path = folder.join(program);
        return match look_at(&path) {
            Some(Ok(())) => Ok(path),
            Some(Err(refusal)) => Err(refusal),
            None => Err(not_found(program, vec![path.parent().unwrap_or(folder).to_owned()], folder)),
        };
    }
    let searched: Vec<PathBuf> = path_variable
        .map(|variable| std::env::split_paths(variable).map(|place| folder.join(place)).collect())
        .unwrap_or_default();
    let mut refusal = None;
    if !program.is_empty() {
        for place in &searched {
            let path = place.join(program);
            match look_at(&path) {
                Some(Ok(())) => return Ok(path),
                Some(Err(reason)) => refusal = refusal.or(Some(reason)),
                None => {}
            }
        }
    }
    // A folder of that name somewhere in the search path explains nothing.
    match refusal {
        Some(refusal @ ExecutableError::NotExecutable { .. }) => Err(refusal),
        Some(_) | None => Err(not_found(program, searched, folder)),
    }
}

fn look_at(path: &Path) -> Option<Result<(), ExecutableError>> {
    let meta = std::fs::metadata(path).ok()?;
    Some(if meta.is_dir() {
        Err(ExecutableError::Folder { path: path.to_owned() })
    } else if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(ExecutableError::NotExecutable { path: path.to_owned() })
    })
}

fn not_found(program: &str, searched: Vec<PathBuf>, folder: &Path) -> ExecutableError {
    let is_path = program.contains('/');
    let nearest = if !is_path && look_at(&folder.join(program)).is_some_and(|found| found.is_ok()) {
        Some(format!("./{program}"))
    } else {
        let wanted = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
        wanted.and_then(|wanted| nearest(&wanted, &searched)).map(|name| {
            if is_path { Path::new(program).with_file_name(name).display().to_string() } else { name }
        })
    };
    ExecutableError::NotFound { program: program.to_owned(), searched, nearest }
}

fn nearest(wanted: &str, places: &[PathBuf]) -> Option<String> {
    let names = places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    let scored = names.take(NAMES_LIMIT).filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let likeness = strsim::jaro_winkler(wanted, &name);
        (likeness >= LIKENESS).then_some((likeness, name, entry.path()))
    });
    let best = scored.filter(|(_, _, path)| look_at(path).is_some_and(|found| found.is_ok()));
    best.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1))).map(|(_, name, _)| name)
}

/// The SHA-256 of a file's bytes.
pub(super) fn digest_bytes(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; super::CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(count) => hash.update(&chunk[..count]),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}
