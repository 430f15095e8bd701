//! Random numbers that nobody can guess, for names and keys of jobs.

use std::cell::RefCell;

/// Bytes of one: a job's tag, or the key of a job whose client gave none.
pub(crate) const DRAWN_BYTES: usize = 16;
/// How many are asked for at once. Each thread has its own, so that a job costs no system call for its name.
const AT_ONCE: usize = 64;

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; DRAWN_BYTES * AT_ONCE], left: 0 }) };
}

struct Drawn {
    bytes: [u8; DRAWN_BYTES * AT_ONCE],
    /// How many were not handed out.
    left: usize,
}

/// One that was never handed out before.
///
/// # Errors
/// The system has no random numbers.
pub(crate) fn draw() -> Result<[u8; DRAWN_BYTES], getrandom::Error> {
    DRAWN.with_borrow_mut(|drawn| {
        if drawn.left == 0 {
            getrandom::fill(&mut drawn.bytes)?;
            drawn.left = AT_ONCE;
        }
        drawn.left -= 1;
        let (all, _) = drawn.bytes.as_chunks_mut::<DRAWN_BYTES>();
        // What was handed out is kept nowhere else.
        Ok(std::mem::take(&mut all[drawn.left]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn none_is_handed_out_twice() {
        let draws = || (0..3 * AT_ONCE + 1).map(|_| draw().unwrap()).collect::<HashSet<_>>();
        let (here, there) = (draws(), std::thread::spawn(draws).join().unwrap());
        assert_eq!((here.len(), there.len()), (3 * AT_ONCE + 1, 3 * AT_ONCE + 1));
        assert!(here.is_disjoint(&there));
        // Used up places are zeros.
        assert!(!here.contains(&[0; DRAWN_BYTES]) && !there.contains(&[0; DRAWN_BYTES]));
    }
}
