//! What tests of the whole program share: an environment in a temporary folder, users that never stop
//! coming, waiting with a deadline, and a disk whose power can be cut.
//!
//! A dev-dependency only; production never uses it. Never here: anything that knows how mainstay works. It
//! speaks HTTP and the command line, as users and operators do.

pub mod vfs;

mod disk;

mod locks;

mod environment;

mod users;

pub use environment::{Environment, Ran, Running};
pub use users::{Answer, Users, get, send};

use std::time::{Duration, Instant};

/// How long anything that is waited for may take. Generous: machines that run tests are slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `look` finds something.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
