//! How much room artifacts take, before one is stored.

use super::listing::{Entry, Kind, list};
use super::{StoreError, list_source, real};
use api::folder::StateFolder;
use model::name::Digest;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

/// What a file system gives at least to whatever has a name; files are counted in multiples of it.
const BLOCK: u64 = 4096;

/// The bytes that [`super::store`] would write for this file or folder. Blocking: it looks at every file.
///
/// # Errors
/// As [`super::store`].
pub fn room(source: &Path) -> Result<u64, StoreError> {
    let root = real(source)?;
    Ok(blocks(&list_source(source, &root)?))
}

/// The bytes that [`super::retain`] would free. What cannot be looked at counts as none. Blocking: it looks at every
/// file of what would go.
///
/// # Errors
/// When the store cannot be read.
pub fn reclaimable(folder: &StateFolder, keep: &BTreeSet<Digest>) -> io::Result<u64> {
    let kept: BTreeSet<&str> = keep.iter().map(Digest::hex).collect();
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder.artifacts())? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        // What has another kind of name stays, or is of a dead attempt and too little to count on.
        if name.len() == 64 && !kept.contains(name) {
            bytes += list(&path, None).map_or(0, |entries| blocks(&entries));
        }
    }
    Ok(bytes)
}

fn blocks(entries: &[Entry]) -> u64 {
    let of = |entry: &Entry| match &entry.kind {
        Kind::File { stamp, .. } => stamp.size.div_ceil(BLOCK).max(1) * BLOCK,
        Kind::Folder | Kind::Link { .. } => BLOCK,
    };
    entries.iter().map(of).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_in_blocks_and_what_is_kept_is_not_freed() {
        let temp = tempfile::tempdir().unwrap();
        let source = temp.path().join("v1");
        std::fs::create_dir_all(source.join("folder")).unwrap();
        std::fs::write(source.join("small"), "x").unwrap();
        std::fs::write(source.join("large"), vec![0; 5000]).unwrap();
        assert_eq!(room(&source).unwrap(), BLOCK + BLOCK + 2 * BLOCK);
        assert_eq!(room(&source.join("large")).unwrap(), 2 * BLOCK, "a file alone");
        assert!(room(&temp.path().join("nothing")).is_err());

        let folder = StateFolder::new(temp.path().join("state"));
        std::fs::create_dir_all(folder.artifacts()).unwrap();
        let stored = super::super::store(&folder, &source, &|_| {}).unwrap();
        assert_eq!(reclaimable(&folder, &BTreeSet::from([stored.digest])).unwrap(), 0);
        assert_eq!(reclaimable(&folder, &BTreeSet::new()).unwrap(), 4 * BLOCK);
    }
}
