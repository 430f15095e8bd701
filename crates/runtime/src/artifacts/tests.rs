use super::attempt::remove_tree;
use super::*;
use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    state: StateFolder,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFolder::new(dir.path().join("state"));
        Self { dir, state }
    }

    /// A folder with a bit of everything.
    fn source(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        fs::create_dir_all(root.join("lib/empty")).unwrap();
        fs::create_dir_all(root.join(".git/objects")).unwrap();
        fs::write(root.join(".git/HEAD"), "ref").unwrap();
        fs::write(root.join("server.py"), "print(1)").unwrap();
        fs::write(root.join("lib/a.txt"), vec![b'a'; 300_000]).unwrap();
        fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("run.sh"), Permissions::from_mode(0o755)).unwrap();
        symlink("lib/a.txt", root.join("link")).unwrap();
        symlink("../server.py", root.join("lib/up")).unwrap();
        root
    }

    fn store(&self, source: &Path) -> Result<Stored, StoreError> {
        store(&self.state, source, &|_| {})
    }

    /// What is in the store besides finished artifacts.
    fn attempts(&self) -> Vec<String> {
        let names = fs::read_dir(self.state.artifacts()).into_iter().flatten();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Read-only folders are not removed by those who own them but for root.
        if self.state.artifacts().exists() {
            remove_tree(&self.state.artifacts()).unwrap();
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_folder_is_stored_read_only_under_its_digest() {
    let place = Place::new();
    let source = place.source("app");
    let seen = Cell::new(Progress::default());
    let stored = store(&place.state, &source, &|progress| seen.set(progress)).unwrap();
    assert_eq!((stored.files, stored.bytes), (3, 300_018));
    assert_eq!(seen.get(), Progress { files: 3, bytes: 300_018 });

    let at = place.state.artifact(&stored.digest);
    assert_eq!(fs::read_to_string(at.join("server.py")).unwrap(), "print(1)");
    assert_eq!(fs::read(at.join("link")).unwrap().len(), 300_000);
    assert_eq!(fs::read_link(at.join("lib/up")).unwrap(), Path::new("../server.py"));
    assert!(!at.join(".git").exists());
    for (path, expected) in [("", 0o555), ("lib", 0o555), ("lib/empty", 0o555), ("run.sh", 0o555)] {
        assert_eq!(mode(&at.join(path)), expected, "{path}");
    }
    assert_eq!(mode(&at.join("server.py")), 0o444);
    verify(&place.state, &stored.digest).unwrap();
    assert!(place.attempts().is_empty(), "{:?}", place.attempts());
}

#[test]
fn the_digest_is_of_names_modes_and_bytes_and_of_nothing_else() {
    let place = Place::new();
    let first = place.store(&place.source("one")).unwrap().digest;
    let again = place.source("two");
    fs::write(again.join(".git/HEAD"), "another").unwrap();
    let file = File::options().write(true).open(again.join("server.py")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    assert_eq!(place.store(&again).unwrap().digest, first);

    type Change = fn(&Path);
    let changes: [(&str, Change); 8] = [
        ("bytes", |root| fs::write(root.join("server.py"), "print(2)").unwrap()),
        ("name", |root| fs::rename(root.join("server.py"), root.join("main.py")).unwrap()),
        ("executable", |root| {
            fs::set_permissions(root.join("server.py"), Permissions::from_mode(0o744)).unwrap();
        }),
        ("empty folder", |root| fs::remove_dir(root.join("lib/empty")).unwrap()),
        ("link", |root| {
            fs::remove_file(root.join("link")).unwrap();
            symlink("./lib/a.txt", root.join("link")).unwrap();
        }),
        ("link for file", |root| {
            fs::remove_file(root.join("run.sh")).unwrap();
            symlink("server.py", root.join("run.sh")).unwrap();
        }),
        ("more", |root| fs::write(root.join("new"), "").unwrap()),
        ("less", |root| fs::remove_file(root.join("run.sh")).unwrap()),
    ];
    let mut digests = std::collections::BTreeSet::from([first]);
    for (name, change) in changes {
        let source = place.source(&name.replace(' ', "-"));
        change(&source);
        assert!(digests.insert(place.store(&source).unwrap().digest), "{name} made no difference");
    }
}

#[test]
fn a_single_file_becomes_a_folder_with_that_file() {
    let place = Place::new();
    let binary = place.source("app").join("run.sh");
    let stored = place.store(&binary).unwrap();
    let at = place.state.artifact(&stored.digest).join("run.sh");
    assert_eq!((mode(&at), fs::read_to_string(&at).unwrap().as_str()), (0o555, "#!/bin/sh\n"));

    let alias = place.dir.path().join("alias");
    symlink(&binary, &alias).unwrap();
    let stored = place.store(&alias).unwrap();
    assert!(place.state.artifact(&stored.digest).join("alias").is_file(), "it has the name that was given");
    verify(&place.state, &stored.digest).unwrap();
}

#[test]
fn storing_again_reuses_what_is_there() {
    let place = Place::new();
    let source = place.source("app");
    let first = place.store(&source).unwrap();
    let inode = |stored: &Stored| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(place.state.artifact(&stored.digest)).unwrap().ino()
    };
    let before = inode(&first);
    let second = place.store(&source).unwrap();
    assert_eq!((&second, inode(&second)), (&first, before));
    assert!(place.attempts().is_empty());
}

#[test]
fn what_changes_while_it_is_copied_is_refused_by_name() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("server.py", |root| fs::write(root.join("server.py"), "print(2)").unwrap()),
        ("lib/a.txt", |root| {
            use std::io::Write;
            let mut file = File::options().append(true).open(root.join("lib/a.txt")).unwrap();
            file.write_all(b"more").unwrap();
        }),
        ("new", |root| fs::write(root.join("new"), "").unwrap()),
        ("run.sh", |root| fs::remove_file(root.join("run.sh")).unwrap()),
        ("link", |root| {
            fs::remove_file(root.join("link")).unwrap();
            symlink("server.py", root.join("link")).unwrap();
        }),
        ("server.py", |root| {
            fs::remove_file(root.join("server.py")).unwrap();
            symlink("run.sh", root.join("server.py")).unwrap();
        }),
    ];
    for (at, (expected, change)) in changes.into_iter().enumerate() {
        // At the first chunk of the first file, and at the very end.
        for first in [true, false] {
            let place = Place::new();
            let source = place.source("app");
            let done = Cell::new(false);
            let outcome = store(&place.state, &source, &|progress| {
                let now = if first { progress.bytes > 0 } else { progress.files == 3 };
                if now && !done.replace(true) {
                    change(&source);
                }
            });
            match outcome {
                Err(StoreError::Changed { path }) => assert_eq!(path, Path::new(expected), "case {at}"),
                other => panic!("case {at}: {other:?}"),
            }
            let left: Vec<_> = fs::read_dir(place.state.artifacts()).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

#[test]
fn links_that_leave_the_artifact_are_refused() {
    let table = [
        ("/etc/passwd", false),
        ("../outside", false),
        ("lib/../../outside", false),
        // `self` leads to the root, so its parent is outside although the names alone stay inside.
        ("self/../outside", false),
        ("round", false),
        ("lib/../server.py", true),
        ("self/self/run.sh", true),
        ("not/there", true),
    ];
    for (target, kept) in table {
        let place = Place::new();
        let source = place.source("app");
        symlink(".", source.join("self")).unwrap();
        symlink(target, source.join("round")).unwrap();
        match place.store(&source) {
            Ok(_) => assert!(kept, "{target}"),
            Err(StoreError::Link { path, target: named }) => {
                assert!(!kept, "{target}");
                assert_eq!((path, named), (PathBuf::from("round"), PathBuf::from(target)));
            }
            Err(other) => panic!("{target}: {other}"),
        }
    }
}

#[test]
fn what_cannot_be_an_artifact_is_refused_by_name() {
    let place = Place::new();
    let source = place.source("app");
    let _socket = std::os::unix::net::UnixListener::bind(source.join("lib/sock")).unwrap();
    let error = place.store(&source).unwrap_err();
    assert_eq!(error.to_string(), "lib/sock is a socket, which cannot be part of an artifact");

    let none = place.store(&place.dir.path().join("none")).unwrap_err();
    assert!(matches!(none, StoreError::Missing { .. }), "{none}");

    fs::create_dir_all(place.state.data()).unwrap();
    for entangled in [place.dir.path().to_owned(), place.state.root().to_owned(), place.state.data()] {
        let error = place.store(&entangled).unwrap_err();
        assert!(matches!(error, StoreError::Entangled { .. }), "{error}");
    }
    let beside = place.dir.path().join("state-of-the-art");
    fs::create_dir(&beside).unwrap();
    place.store(&beside).unwrap();
}

#[test]
fn a_store_that_cannot_be_written_says_so() {
    let place = Place::new();
    fs::create_dir_all(place.state.root()).unwrap();
    fs::write(place.state.artifacts(), "in the way").unwrap();
    let error = place.store(&place.source("app")).unwrap_err();
    assert!(matches!(error, StoreError::Write { .. }), "{error}");
    fs::remove_file(place.state.artifacts()).unwrap();
}

#[test]
fn a_change_in_the_store_is_found() {
    let place = Place::new();
    let stored = place.store(&place.source("app")).unwrap();
    let file = place.state.artifact(&stored.digest).join("server.py");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    verify(&place.state, &stored.digest).unwrap();
    fs::write(&file, "print(6)").unwrap();
    let error = verify(&place.state, &stored.digest).unwrap_err();
    assert!(matches!(error, VerifyError::Differs { .. }), "{error}");
    let other = Digest::from_bytes([1; 32]);
    assert!(matches!(verify(&place.state, &other), Err(VerifyError::Missing { .. })));
}

#[test]
fn sweeping_removes_what_died_and_nothing_else() {
    let place = Place::new();
    assert_eq!(sweep(&place.state).unwrap(), 0);
    let stored = place.store(&place.source("app")).unwrap();
    let alive = Attempt::begin(&place.state.artifacts()).unwrap();
    // What a killed process leaves: the folder, already read-only in part, and no lock.
    let dead = place.state.artifacts().join(".attempt-1-2-3");
    fs::create_dir_all(dead.join("lib")).unwrap();
    fs::write(dead.join("lib/a"), "").unwrap();
    fs::set_permissions(dead.join("lib"), Permissions::from_mode(0o555)).unwrap();

    assert_eq!(sweep(&place.state).unwrap(), 1);
    assert!(!dead.exists());
    assert!(alive.path.exists());
    verify(&place.state, &stored.digest).unwrap();
    drop(alive);
    assert!(place.attempts().is_empty());
}

#[test]
fn a_command_is_found_as_a_shell_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let make = |path: &str, mode: u32| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.to_str().unwrap()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    make("first/server", 0o644);
    make("second/server", 0o755);
    make("third/server", 0o755);
    make("here", 0o755);
    make("plain", 0o644);
    let path = format!("{0}/first:{0}/second:{0}/third:", folder.display());
    let path = Some(OsStr::new(&path));

    let (found, digest) = executable("server", folder, path).unwrap();
    assert_eq!(found, folder.join("second/server"), "one that is not executable is passed over");
    let bytes: [u8; 32] = Sha256::digest(found.to_str().unwrap()).into();
    assert_eq!(digest, Digest::from_bytes(bytes));
    assert_eq!(executable("./here", folder, None).unwrap().0, folder.join("./here"));
    assert_eq!(
        executable("here", folder, path).unwrap().0,
        folder.join("here"),
        "an empty place is the folder"
    );

    let refusals = [
        ("sevrer", path, "no command `sevrer` in any of the 4 folders", Some("did you mean `server`?")),
        ("here", None, "no command `here`: the search path is empty", Some("did you mean `./here`?")),
        ("./plain", path, "plain is not executable", Some("chmod +x")),
        ("./second", path, "second is a folder, not a command", Some("name the file")),
        ("second/serber", path, "no command `second/serber` in ", Some("did you mean `second/server`?")),
        ("zzz", path, "no command `zzz`", None),
        ("", path, "no command ``", None),
    ];
    for (program, path, expected, hint) in refusals {
        let error = executable(program, folder, path).unwrap_err();
        assert!(error.to_string().contains(expected), "{program}: {error}");
        match (error.hint(), hint) {
            (Some(found), Some(wanted)) => assert!(found.contains(wanted), "{program}: {found}"),
            (found, wanted) => assert_eq!(found.as_deref(), wanted, "{program}"),
        }
    }
}

#[test]
fn what_is_not_kept_is_removed_and_the_rest_is_whole() {
    let place = Place::new();
    let kept = place.store(&place.source("app")).unwrap().digest;
    let other = place.dir.path().join("other");
    fs::write(&other, "another").unwrap();
    let dropped = place.store(&other).unwrap().digest;
    fs::write(place.state.artifacts().join("notes"), "not ours").unwrap();
    assert_eq!(retain(&place.state, &BTreeSet::from([kept.clone()])).unwrap(), 1);
    assert!(!place.state.artifact(&dropped).exists());
    assert!(place.attempts().is_empty());
    assert!(place.state.artifacts().join("notes").exists());
    verify(&place.state, &kept).unwrap();
    assert_eq!(place.store(&other).unwrap().digest, dropped);
    verify(&place.state, &dropped).unwrap();
}
