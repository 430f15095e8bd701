//! A disk that loses power, as a VFS of SQLite (<https://www.sqlite.org/vfs.html>): wholly in memory, so that
//! a test can cut the power at every single write of a run and look at what is left.
//!
//! The only file of the repository with `unsafe` code: SQLite speaks to a VFS in C.
//! `docs/decisions/0017-a-faulty-vfs-for-power-cuts.md` says why it is worth that and what is modelled.
//!
//! What has to be true for the `unsafe` parts, and is said by SQLite: an opened file is used by one thread at a
//! time; names end with a zero and stay while the call runs; a buffer is as long as the number beside it. Only
//! SQLite calls the functions that take its pointers.

#![expect(unsafe_code, reason = "SQLite speaks to a VFS in C")]

use crate::disk::{Change, Failure, Machine, OpenHow, Opened};
use crate::locks::{Level, SHARED_SLOTS};
use rusqlite::ffi;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

/// The longest name of a file, in bytes.
const LONGEST_NAME: c_int = 512;
/// The Unix epoch as SQLite counts: milliseconds since noon of 24 November 4714 BC.
const UNIX_EPOCH_MS: i64 = 210_866_760_000_000;
/// What the VFS of Unix says of a disk: a write that is interrupted damages nothing beside it.
const CHARACTERISTICS: c_int = ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE;
/// What the VFS of Unix calls a sector, in bytes; the disk beneath has smaller ones.
const SECTOR_SIZE: c_int = 4096;

/// Numbers disks, so that no two have the same name.
static DISKS: AtomicU64 = AtomicU64::new(1);

/// A disk in memory under a machine whose power can be cut. Files of all names are in one folder.
///
/// The VFS is there until the `Disk` is dropped; connections that are open by then keep the files.
#[derive(Debug)]
pub struct Disk {
    machine: Arc<Machine>,
    vfs: Registered,
    name: CString,
}

#[derive(Debug)]
struct Registered(*mut ffi::sqlite3_vfs);

// SAFETY: the pointer is only given back to SQLite, which takes a lock of its own.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl Disk {
    /// An empty disk. Its VFS is called `label` with a number.
    ///
    /// # Panics
    /// When `label` holds a zero byte, or SQLite has no memory.
    pub fn new(label: &str) -> Self {
        Self::of(label, Machine::default())
    }

    fn of(label: &str, machine: Machine) -> Self {
        let number = DISKS.fetch_add(1, Ordering::Relaxed);
        let name = CString::new(format!("{label}-{number}")).expect("a label without zero bytes");
        let machine = Arc::new(machine);
        let vfs = register(&name, Arc::downgrade(&machine));
        Self { machine, vfs: Registered(vfs), name }
    }

    /// The name of the VFS, for [`rusqlite::Connection::open_with_flags_and_vfs`].
    ///
    /// # Panics
    /// Never: the name was made from a text.
    pub fn name(&self) -> &str {
        self.name.to_str().expect("it was made from a text")
    }

    /// How many boundaries were reached: writes, changes of a length, syncs and deletions of files with a
    /// name. The first is 1.
    pub fn writes(&self) -> u64 {
        self.machine.writes()
    }

    /// Cuts the power at a boundary: it, and whatever comes after it, fails with `SQLITE_IOERR`. A write or
    /// deletion at the boundary may have arrived; a sync there did not come to its end.
    pub fn cut_at(&self, boundary: u64) {
        self.machine.cut_at(boundary);
    }

    /// Whether the power was cut.
    pub fn is_off(&self) -> bool {
        self.machine.is_off()
    }

    /// How many files are open: none once every connection was closed.
    pub fn open_files(&self) -> usize {
        self.machine.open_files()
    }

    /// From now on syncs succeed and do nothing: a disk that lies, or a program that forgot to sync. Shows
    /// that a test can fail.
    pub fn ignore_sync(&self, ignore: bool) {
        self.machine.ignore_sync(ignore);
    }

    /// From now on syncs fail, or no longer. What was to be synced is given up: a later sync does not make it durable,
    /// as after a failed `fsync` on Linux.
    pub fn fail_sync(&self, fail: bool) {
        self.machine.fail_sync(fail);
    }

    /// From now on there is no room, or there is again. Also what is written over needs some, as where a file system
    /// writes everything to a new place.
    pub fn fill(&self, full: bool) {
        self.machine.fill(full);
    }

    /// Holds syncs up until this is called with `false`: a disk that takes its time.
    pub fn hold_sync(&self, hold: bool) {
        self.machine.hold_sync(hold);
    }

    /// How many syncs are held up.
    pub fn held_syncs(&self) -> usize {
        self.machine.held_syncs()
    }

    /// Cuts the power if it is still there, and boots: a disk with what this one may hold then. What that is
    /// of all that may have become of unsynced changes, `seed` decides.
    ///
    /// # Panics
    /// When SQLite has no memory.
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let name = self.name();
        let label = name.rsplit_once('-').map_or(name, |(label, _)| label);
        Self::of(label, self.machine.after_power_cut(seed))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: it was registered. It is not freed: connections may still point to it.
        unsafe { ffi::sqlite3_vfs_unregister(self.vfs.0) };
    }
}

/// Makes SQLite know a VFS of that name. Some hundred bytes stay for ever: nobody can tell when the last
/// connection has let go of them.
fn register(name: &CString, machine: Weak<Machine>) -> *mut ffi::sqlite3_vfs {
    let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
        iVersion: 2,
        szOsFile: c_int::try_from(size_of::<File>()).expect("a file is two pointers"),
        mxPathname: LONGEST_NAME,
        pNext: ptr::null_mut(),
        zName: name.clone().into_raw(),
        pAppData: Box::into_raw(Box::new(machine)).cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_path_name),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: None,
        xCurrentTimeInt64: Some(current_time_ms),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the VFS and what it points to live for ever.
    let code = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
    assert_eq!(code, ffi::SQLITE_OK, "SQLite does not register a VFS");
    vfs
}

/// What SQLite makes room for when it opens a file.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    open: *mut Open,
}

/// An opened file.
struct Open {
    machine: Arc<Machine>,
    file: Opened,
    delete_on_close: bool,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Version 2 has shared memory, and no memory maps of the file.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// What SQLite is told.
fn code(failure: Failure) -> c_int {
    match failure {
        Failure::Off => ffi::SQLITE_IOERR,
        Failure::Busy => ffi::SQLITE_BUSY,
        Failure::Missing | Failure::Exists => ffi::SQLITE_CANTOPEN,
        Failure::Short => ffi::SQLITE_IOERR_SHORT_READ,
        Failure::Full => ffi::SQLITE_FULL,
        Failure::Unsynced => ffi::SQLITE_IOERR_FSYNC,
    }
}

fn told(done: Result<(), Failure>) -> c_int {
    done.map_or_else(code, |()| ffi::SQLITE_OK)
}

/// A length or an offset.
fn size(number: impl TryInto<usize>) -> usize {
    number.try_into().ok().expect("SQLite gives no negative lengths and offsets")
}

/// The machine of a VFS, unless its disk was dropped.
fn machine(vfs: *mut ffi::sqlite3_vfs) -> Option<Arc<Machine>> {
    // SAFETY: `register` has put it there for ever.
    unsafe { (*(*vfs).pAppData.cast::<Weak<Machine>>()).upgrade() }
}

/// A name. A temporary file has none.
fn text<'a>(name: *const c_char) -> Option<&'a str> {
    // SAFETY: a name ends with a zero and is there until the call that gave it returns.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) });
    name.map(|name| name.to_str().expect("tests use names in UTF-8"))
}

/// An opened file.
fn opened<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Open {
    // SAFETY: `open` has put it there, `close` takes it away, and one thread at a time uses a file.
    unsafe { &mut *(*file.cast::<File>()).open }
}

/// A buffer to be filled.
fn buffer<'a>(start: *mut c_void, length: c_int) -> &'a mut [u8] {
    // SAFETY: it is that long, and nobody else's while the call runs.
    unsafe { std::slice::from_raw_parts_mut(start.cast(), size(length)) }
}

/// Puts an answer where SQLite wants it.
fn answer<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: the place is there while the call runs.
        unsafe { place.write(value) };
    }
}

extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    const JOURNALS: c_int =
        ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    let asked = |flag| flags & flag != 0;
    let create = asked(ffi::SQLITE_OPEN_CREATE);
    // When the folder is synced is as in the VFS of Unix.
    let how = OpenHow {
        create,
        exclusive: asked(ffi::SQLITE_OPEN_EXCLUSIVE),
        sync_folder: create && asked(JOURNALS),
    };
    let machine = machine(vfs).ok_or(Failure::Missing);
    let opening = machine.and_then(|machine| Ok((machine.open(text(name), how)?, machine)));
    let (methods, open, code) = match opening {
        Ok((file, machine)) => {
            let open = Open { machine, file, delete_on_close: asked(ffi::SQLITE_OPEN_DELETEONCLOSE) };
            (&raw const METHODS, Box::into_raw(Box::new(open)), ffi::SQLITE_OK)
        }
        // Without methods, SQLite does not close it.
        Err(failure) => (ptr::null(), ptr::null_mut(), code(failure)),
    };
    // SAFETY: SQLite has made room for `szOsFile` bytes.
    unsafe { file.cast::<File>().write(File { base: ffi::sqlite3_file { pMethods: methods }, open }) };
    answer(flags_out, flags);
    code
}

extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: `open` has made it with `Box::into_raw`, and SQLite closes a file once.
    let open = unsafe { Box::from_raw((*file.cast::<File>()).open) };
    open.machine.close(&open.file, open.delete_on_close);
    ffi::SQLITE_OK
}

extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, length: c_int, offset: i64) -> c_int {
    let open = opened(file);
    told(open.machine.read(&open.file, size(offset), buffer(to, length)))
}

extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, length: c_int, offset: i64) -> c_int {
    let open = opened(file);
    // SAFETY: the buffer is that long, and nobody changes it while the call runs.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size(length)) };
    told(open.machine.change(&open.file, Change::Write(size(offset), bytes.to_vec())))
}

extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    let open = opened(file);
    told(open.machine.change(&open.file, Change::Resize(size(length))))
}

extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    let open = opened(file);
    told(open.machine.sync(&mut open.file))
}

extern "C" fn file_size(file: *mut ffi::sqlite3_file, place: *mut i64) -> c_int {
    let open = opened(file);
    let length = open.machine.length(&open.file);
    let length = length.map(|length| answer(place, i64::try_from(length).expect("it is in memory")));
    told(length)
}

fn level(number: c_int) -> Level {
    match number {
        ffi::SQLITE_LOCK_NONE => Level::None,
        ffi::SQLITE_LOCK_SHARED => Level::Shared,
        ffi::SQLITE_LOCK_RESERVED => Level::Reserved,
        ffi::SQLITE_LOCK_PENDING => Level::Pending,
        // There are no others.
        _ => Level::Exclusive,
    }
}

extern "C" fn lock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    let open = opened(file);
    told(open.machine.lock(&open.file, |locks, _| locks.raise(open.file.owner, level(wanted))))
}

extern "C" fn unlock(file: *mut ffi::sqlite3_file, wanted: c_int) -> c_int {
    let open = opened(file);
    open.machine.unlock(&open.file, |locks, _| locks.lower(open.file.owner, level(wanted)));
    ffi::SQLITE_OK
}

extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, place: *mut c_int) -> c_int {
    let open = opened(file);
    told(open.machine.lock(&open.file, |locks, _| {
        answer(place, c_int::from(locks.reserved()));
        true
    }))
}

extern "C" fn file_control(_file: *mut ffi::sqlite3_file, _what: c_int, _more: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    SECTOR_SIZE
}

extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    CHARACTERISTICS
}

extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    number: c_int,
    bytes: c_int,
    create: c_int,
    place: *mut *mut c_void,
) -> c_int {
    let open = opened(file);
    let region = open.machine.map(&open.file, size(number), size(bytes), create != 0);
    told(region.map(|region| {
        // The machine keeps the region until the last connection lets go of it.
        answer(place, region.map_or(ptr::null_mut(), |region| region.as_ptr().cast_mut().cast()));
    }))
}

extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    let open = opened(file);
    let owner = open.file.owner;
    let slots = size(first)..size(first + count).min(SHARED_SLOTS);
    let asked = |flag| flags & flag != 0;
    if asked(ffi::SQLITE_SHM_UNLOCK) {
        open.machine.unlock(&open.file, |_, locks| locks.release(owner, slots));
        return ffi::SQLITE_OK;
    }
    told(open.machine.lock(&open.file, |_, locks| {
        if asked(ffi::SQLITE_SHM_SHARED) { locks.share(owner, slots) } else { locks.exclude(owner, slots) }
    }))
}

extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(Ordering::SeqCst);
}

extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    let open = opened(file);
    open.machine.unmap(&open.file);
    ffi::SQLITE_OK
}

extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    let (Some(machine), Some(name)) = (machine(vfs), text(name)) else { return ffi::SQLITE_IOERR };
    match machine.delete(name, sync_folder != 0) {
        Err(Failure::Missing) => ffi::SQLITE_IOERR_DELETE_NOENT,
        done => told(done),
    }
}

extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _how: c_int,
    place: *mut c_int,
) -> c_int {
    let (Some(machine), Some(name)) = (machine(vfs), text(name)) else { return ffi::SQLITE_IOERR };
    told(machine.holds(name).map(|holds| answer(place, c_int::from(holds))))
}

/// Names are used as they are.
extern "C" fn full_path_name(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    length: c_int,
    place: *mut c_char,
) -> c_int {
    let name = text(name).unwrap_or_default().as_bytes();
    if name.len() >= size(length) {
        return ffi::SQLITE_CANTOPEN;
    }
    let place = buffer(place.cast(), length);
    place[..name.len()].copy_from_slice(name);
    place[name.len()] = 0;
    ffi::SQLITE_OK
}

/// SQLite takes its random numbers from the VFS that it uses by default. These make names of files differ.
extern "C" fn randomness(_vfs: *mut ffi::sqlite3_vfs, length: c_int, place: *mut c_char) -> c_int {
    static DRAWN: AtomicU64 = AtomicU64::new(1);
    for bytes in buffer(place.cast(), length).chunks_mut(size_of::<u64>()) {
        let drawn = DRAWN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes.copy_from_slice(&drawn.to_le_bytes()[..bytes.len()]);
    }
    length
}

extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, microseconds: c_int) -> c_int {
    std::thread::sleep(Duration::from_micros(u64::try_from(microseconds).unwrap_or_default()));
    microseconds
}

extern "C" fn current_time_ms(_vfs: *mut ffi::sqlite3_vfs, place: *mut i64) -> c_int {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    answer(place, UNIX_EPOCH_MS + i64::try_from(since.as_millis()).expect("it is a date"));
    ffi::SQLITE_OK
}

extern "C" fn current_time(vfs: *mut ffi::sqlite3_vfs, place: *mut f64) -> c_int {
    let mut now_ms = 0_i64;
    let code = current_time_ms(vfs, &raw mut now_ms);
    answer(place, now_ms as f64 / 86_400_000.0);
    code
}
