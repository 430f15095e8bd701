//! Which release of the shop this process is, and what differs between them.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::database::Version;

/// The file looked for in the working directory when no release is named.
const DEFAULT_FILE: &str = "release";
/// A release file holds one word; no more than this is read of it, in bytes.
const FILE_LIMIT: u64 = 1024;

/// A release of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The first one.
    V1,
    /// Products also say their currency, and orders keep it.
    V2,
    /// As `V2`, but every request takes longer.
    V3Slow,
    /// As `V2`, but a few requests take much longer.
    V3SlowTail,
    /// As `V2`, ready and healthy to look at, but some requests are answered with 500.
    V3Errors,
    /// As `V2`, but each request leaves memory behind.
    V3Leak,
    /// As `V2`, but the process aborts after some requests.
    V3Crash,
    /// As `V2`, but never becomes ready.
    V3Broken,
    /// As `V2`, but its migration takes a column away from the releases before it.
    V3BrokenSchema,
    /// `V2` under another name.
    V3Identical,
}

impl Release {
    const ALL: [Self; 10] = [
        Self::V1,
        Self::V2,
        Self::V3Slow,
        Self::V3SlowTail,
        Self::V3Errors,
        Self::V3Leak,
        Self::V3Crash,
        Self::V3Broken,
        Self::V3BrokenSchema,
        Self::V3Identical,
    ];

    /// The word for it in files, on the command line and in the response header `X-Shop-Release`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3Slow => "v3-slow",
            Self::V3SlowTail => "v3-slow-tail",
            Self::V3Errors => "v3-errors",
            Self::V3Leak => "v3-leak",
            Self::V3Crash => "v3-crash",
            Self::V3Broken => "v3-broken",
            Self::V3BrokenSchema => "v3-broken-schema",
            Self::V3Identical => "v3-identical",
        }
    }

    /// The currency products are shown with and orders keep; the first release knows none.
    pub(crate) fn currency(self) -> Option<&'static str> {
        if self.has_currency() { Some("EUR") } else { None }
    }

    /// Whether it reads and writes the currency of orders.
    pub(crate) fn has_currency(self) -> bool {
        self != Self::V1
    }

    /// Whether it calls the price of a product `amount` in the database.
    pub(crate) fn renames_price(self) -> bool {
        self == Self::V3BrokenSchema
    }

    /// Whether running its `migrate expand` keeps other releases from working.
    pub(crate) fn expansion_breaks_others(self) -> bool {
        self.renames_price()
    }

    /// The schemas it starts on. That of `v3-broken-schema` says that it suits everybody, which is what is
    /// wrong with it.
    pub(crate) fn works_on(self) -> &'static [Version] {
        match self {
            Self::V1 => &[Version::Base, Version::Expanded, Version::Renamed],
            Self::V3BrokenSchema => &[Version::Renamed],
            Self::V2
            | Self::V3Slow
            | Self::V3SlowTail
            | Self::V3Errors
            | Self::V3Leak
            | Self::V3Crash
            | Self::V3Broken
            | Self::V3Identical => &[Version::Expanded, Version::Contracted, Version::Renamed],
        }
    }

    fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|release| release.name() == word)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why no release could be settled on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    /// The file is missing, a folder, not text, or not readable.
    #[error(
        "release `{}` is not one of {}, and there is no such file to read",
        path.display(), words()
    )]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("the file `{}` says `{word}`, which is not one of {}", path.display(), words())]
    Unknown { path: PathBuf, word: String },
}

fn words() -> String {
    Release::ALL.map(Release::name).join(", ")
}

/// The release that `given` names or that the file `given` holds; without one, what the file `release` in
/// the working directory holds, and `v1` when there is no such file.
pub(crate) fn find(given: Option<&str>) -> Result<Release, ReleaseError> {
    match given {
        Some(word) => Release::named(word).map_or_else(|| read(Path::new(word)), Ok),
        None => match read(Path::new(DEFAULT_FILE)) {
            Err(ReleaseError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(Release::V1)
            }
            found => found,
        },
    }
}

fn read(path: &Path) -> Result<Release, ReleaseError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_LIMIT).read_to_string(&mut text))
        .map_err(|source| ReleaseError::Unreadable { path: path.to_owned(), source })?;
    let word = text.trim();
    Release::named(word)
        .ok_or_else(|| ReleaseError::Unknown { path: path.to_owned(), word: word.chars().take(40).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_release() {
        for release in Release::ALL {
            assert_eq!(find(Some(release.name())).unwrap(), release);
        }
    }

    #[test]
    fn a_file_may_hold_the_word() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("release");
        std::fs::write(&file, "v3-errors\n").unwrap();
        assert_eq!(find(file.to_str()).unwrap(), Release::V3Errors);
    }

    #[test]
    fn anything_else_is_refused_with_the_value_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("release");
        std::fs::write(&file, "v9").unwrap();
        let wrong = find(file.to_str()).unwrap_err().to_string();
        assert!(wrong.contains("`v9`") && wrong.contains("v3-broken"), "{wrong}");

        let missing = folder.path().join("nothing");
        let wrong = find(missing.to_str()).unwrap_err().to_string();
        assert!(wrong.contains("nothing") && wrong.contains("v1, v2"), "{wrong}");
    }
}
