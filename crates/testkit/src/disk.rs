//! What a disk holds while a machine runs and what it may hold once its power was cut: plain data.
//!
//! One folder with files. Of everything there are two states: the one that the running machine sees, and the
//! durable one. Between them lie the changes that were not synced yet, in order.
//!
//! - **A file's content** becomes durable when the file is synced. Of unsynced changes every sector of
//!   [`SECTOR`] bytes keeps, by itself, any state that it has had since the last sync; the length is any that
//!   the file has had since then. Where the file grew over sectors that were not written, there are zeros or
//!   whatever the disk happened to hold. A sector is never torn: that is what disks promise.
//! - **The folder's entries** become durable when the folder is synced, which SQLite asks for with the first
//!   sync of a new journal and with a delete. Of unsynced creations and deletions the first so many are kept:
//!   file systems journal them in order. A synced file without an entry is lost.
//! - **A sync that fails** gives its changes up: none of them becomes durable by a later sync, although the running
//!   machine sees them. That is what Linux does, which takes pages for clean after it could not write them.
//! - **Memory** is gone: locks, and the shared memory of a write-ahead log.

use crate::locks::{FileLocks, Owner, SlotLocks};
mod dice;

mod image;

pub(crate) use image::Change;

use dice::Dice;
use image::Image;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Why the disk did not do what it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The power is off.
    Off,
    /// Somebody else holds the lock.
    Busy,
    /// There is no file of that name, and none was to be created.
    Missing,
    /// A file was to be created, and there is one of that name.
    Exists,
    /// The file ends before the last byte that was asked for; the rest was filled with zeros.
    Short,
    /// The disk has no room.
    Full,
    /// What was written did not get to the disk.
    Unsynced,
}

/// A part of the memory that the connections of a file share. The words are atomic because that makes it
/// legal to write to them through a pointer; nothing here reads them.
pub(crate) type Region = Arc<[AtomicU64]>;

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenHow {
    pub(crate) create: bool,
    pub(crate) exclusive: bool,
    /// The first sync of the file is to sync the folder too.
    pub(crate) sync_folder: bool,
}

/// An opened file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) owner: Owner,
    file: usize,
    sync_folder: bool,
    /// Its entry in the folder. A temporary file has none.
    name: Option<String>,
}

/// A machine with its one disk. Every operation locks the whole of it, so that operations have an order.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    state: Mutex<State>,
    /// Syncs are held up no longer.
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    off: bool,
    ignore_sync: bool,
    fail_sync: bool,
    full: bool,
    hold_sync: bool,
    held_syncs: usize,
    /// How many boundaries were reached.
    writes: u64,
    /// The boundary at which the power goes.
    cut_at: Option<u64>,
    next_owner: Owner,
    open_files: usize,
    files: Vec<File>,
    /// The files by name, as the running machine sees them.
    folder: BTreeMap<String, usize>,
    durable_folder: BTreeMap<String, usize>,
    /// What happened in the folder since it was synced: a name and the file it has since then, if any.
    unsynced_entries: Vec<(String, Option<usize>)>,
}

#[derive(Debug, Default)]
struct File {
    image: Image,
    locks: FileLocks,
    slots: SlotLocks,
    regions: Vec<Region>,
    /// How many opened files use the regions.
    mapped: Vec<Owner>,
}

/// The state of a machine, if that is on.
fn running(state: MutexGuard<'_, State>) -> Result<MutexGuard<'_, State>, Failure> {
    if state.off { Err(Failure::Off) } else { Ok(state) }
}

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a machine that is on.
    fn running(&self) -> Result<MutexGuard<'_, State>, Failure> {
        running(self.state())
    }

    pub(crate) fn writes(&self) -> u64 {
        self.state().writes
    }

    pub(crate) fn is_off(&self) -> bool {
        self.state().off
    }

    pub(crate) fn open_files(&self) -> usize {
        self.state().open_files
    }

    pub(crate) fn cut_at(&self, boundary: u64) {
        self.state().cut_at = Some(boundary);
    }

    pub(crate) fn ignore_sync(&self, ignore: bool) {
        self.state().ignore_sync = ignore;
    }

    pub(crate) fn fail_sync(&self, fail: bool) {
        self.state().fail_sync = fail;
    }

    pub(crate) fn fill(&self, full: bool) {
        self.state().full = full;
    }

    pub(crate) fn held_syncs(&self) -> usize {
        self.state().held_syncs
    }

    pub(crate) fn hold_sync(&self, hold: bool) {
        self.state().hold_sync = hold;
        self.released.notify_all();
    }

    /// Turns the machine off and tells what its disk may hold then, as the disk of another machine.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Self {
        let mut state = self.state();
        state.off = true;
        let mut dice = Dice(seed);
        let mut folder = state.durable_folder.clone();
        let kept = dice.below(state.unsynced_entries.len() + 1);
        for (name, file) in &state.unsynced_entries[..kept] {
            change_entry(&mut folder, name, *file);
        }
        let files = state
            .files
            .iter()
            .map(|file| File { image: Image::synced(file.image.survivor(&mut dice)), ..File::default() });
        let files = files.collect();
        let durable_folder = folder.clone();
        let state = Mutex::new(State { files, folder, durable_folder, ..State::default() });
        Self { state, released: Condvar::new() }
    }

    /// Opens the file of that name, or a temporary one.
    pub(crate) fn open(&self, name: Option<&str>, how: OpenHow) -> Result<Opened, Failure> {
        let mut state = self.running()?;
        let found = name.and_then(|name| state.folder.get(name).copied());
        let file = match found {
            Some(_) if how.exclusive => return Err(Failure::Exists),
            Some(file) => file,
            None if !how.create => return Err(Failure::Missing),
            None => {
                state.files.push(File::default());
                let file = state.files.len() - 1;
                if let Some(name) = name {
                    state.enter(name, Some(file));
                }
                file
            }
        };
        state.next_owner += 1;
        state.open_files += 1;
        let name = name.map(str::to_owned);
        Ok(Opened { owner: state.next_owner, file, sync_folder: how.sync_folder, name })
    }

    /// Closes a file. Works without power.
    pub(crate) fn close(&self, opened: &Opened, delete: bool) {
        self.unmap(opened);
        let mut state = self.state();
        state.open_files -= 1;
        state.files[opened.file].locks.lower(opened.owner, crate::locks::Level::None);
        match &opened.name {
            None => state.files[opened.file] = File::default(),
            Some(name) if delete && !state.off => state.enter(name, None),
            Some(_) => {}
        }
    }

    /// Reads into `bytes` from `offset`. Fills with zeros what is behind the end.
    pub(crate) fn read(&self, opened: &Opened, offset: usize, bytes: &mut [u8]) -> Result<(), Failure> {
        let state = self.running()?;
        let content = &state.files[opened.file].image.seen;
        let from = content.get(offset..).unwrap_or_default();
        let there = from.len().min(bytes.len());
        bytes[..there].copy_from_slice(&from[..there]);
        bytes[there..].fill(0);
        if there < bytes.len() { Err(Failure::Short) } else { Ok(()) }
    }

    pub(crate) fn length(&self, opened: &Opened) -> Result<usize, Failure> {
        Ok(self.running()?.files[opened.file].image.seen.len())
    }

    /// Whether there is a file of that name with something in it: SQLite takes an empty journal for none.
    pub(crate) fn holds(&self, name: &str) -> Result<bool, Failure> {
        let state = self.running()?;
        Ok(state.folder.get(name).is_some_and(|file| !state.files[*file].image.seen.is_empty()))
    }

    /// A write or a change of the length. It reaches the disk before the next sync, or not.
    pub(crate) fn change(&self, opened: &Opened, change: Change) -> Result<(), Failure> {
        let mut state = self.running()?;
        if opened.name.is_none() {
            // A temporary file is nothing that has to survive.
            state.files[opened.file].image.change(change);
            return Ok(());
        }
        if state.full && matches!(change, Change::Write(..)) {
            return Err(Failure::Full);
        }
        let outcome = state.reach_boundary();
        // What was under way when the power went may have arrived.
        state.files[opened.file].image.change(change);
        outcome
    }

    pub(crate) fn sync(&self, opened: &mut Opened) -> Result<(), Failure> {
        let mut state = self.state();
        state.held_syncs += 1;
        let held = self.released.wait_while(state, |state| state.hold_sync);
        state = held.unwrap_or_else(PoisonError::into_inner);
        state.held_syncs -= 1;
        let mut state = running(state)?;
        if opened.name.is_none() {
            return Ok(());
        }
        state.reach_boundary()?;
        if state.fail_sync {
            state.files[opened.file].image.give_up();
            return Err(Failure::Unsynced);
        }
        if state.ignore_sync {
            return Ok(());
        }
        state.files[opened.file].image.sync();
        if std::mem::take(&mut opened.sync_folder) {
            state.sync_folder();
        }
        Ok(())
    }

    pub(crate) fn delete(&self, name: &str, sync_folder: bool) -> Result<(), Failure> {
        let mut state = self.running()?;
        if !state.folder.contains_key(name) {
            return Err(Failure::Missing);
        }
        let outcome = state.reach_boundary();
        state.enter(name, None);
        if outcome.is_ok() && sync_folder && !state.ignore_sync {
            state.sync_folder();
        }
        outcome
    }

    /// Lets `act` try for locks on a file.
    pub(crate) fn lock(
        &self,
        opened: &Opened,
        act: impl FnOnce(&mut FileLocks, &mut SlotLocks) -> bool,
    ) -> Result<(), Failure> {
        let mut state = self.running()?;
        let file = &mut state.files[opened.file];
        if act(&mut file.locks, &mut file.slots) { Ok(()) } else { Err(Failure::Busy) }
    }

    /// Lets `act` give locks back. Works without power.
    pub(crate) fn unlock(&self, opened: &Opened, act: impl FnOnce(&mut FileLocks, &mut SlotLocks)) {
        let mut state = self.state();
        let file = &mut state.files[opened.file];
        act(&mut file.locks, &mut file.slots);
    }

    /// Part `number` of the shared memory of a file, each of `bytes` bytes; none if it is not there and not
    /// to be created either.
    pub(crate) fn map(
        &self,
        opened: &Opened,
        number: usize,
        bytes: usize,
        create: bool,
    ) -> Result<Option<Region>, Failure> {
        let mut state = self.running()?;
        let file = &mut state.files[opened.file];
        if !file.mapped.contains(&opened.owner) {
            file.mapped.push(opened.owner);
        }
        while create && file.regions.len() <= number {
            let words = bytes.div_ceil(size_of::<AtomicU64>());
            file.regions.push((0..words).map(|_| AtomicU64::new(0)).collect());
        }
        Ok(file.regions.get(number).cloned())
    }

    /// Lets go of the shared memory, which ends with the last who does. Works without power.
    pub(crate) fn unmap(&self, opened: &Opened) {
        let mut state = self.state();
        let file = &mut state.files[opened.file];
        file.mapped.retain(|owner| *owner != opened.owner);
        file.slots.release(opened.owner, 0..crate::locks::SHARED_SLOTS);
        if file.mapped.is_empty() {
            file.regions.clear();
        }
    }
}

impl State {
    /// Counts a boundary, and turns the machine off if it is the one.
    fn reach_boundary(&mut self) -> Result<(), Failure> {
        self.writes += 1;
        self.off = self.cut_at.is_some_and(|cut| self.writes >= cut);
        if self.off { Err(Failure::Off) } else { Ok(()) }
    }

    /// Gives `name` to a file, or to none.
    fn enter(&mut self, name: &str, file: Option<usize>) {
        change_entry(&mut self.folder, name, file);
        self.unsynced_entries.push((name.to_owned(), file));
    }

    fn sync_folder(&mut self) {
        self.durable_folder = self.folder.clone();
        self.unsynced_entries.clear();
    }
}

fn change_entry(folder: &mut BTreeMap<String, usize>, name: &str, file: Option<usize>) {
    match file {
        Some(file) => folder.insert(name.to_owned(), file),
        None => folder.remove(name),
    };
}

#[cfg(test)]
mod tests;
