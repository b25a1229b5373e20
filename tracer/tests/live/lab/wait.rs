//! Waiting with a limit: polls until something holds and fails with the last reason why not.

use std::time::{Duration, Instant};

use super::setting::patient;

const PAUSE: Duration = Duration::from_millis(50);

/// Polls `attempt` until it gives a value; after `limit` (more on slow machines), fails with its last
/// error.
#[track_caller]
pub(crate) fn until<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let limit = patient(limit);
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) => assert!(Instant::now() < deadline, "{what}: not within {limit:?}\n{reason}"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// `Ok` if both are equal, else an error that shows them: for use inside [`until`].
pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected { Ok(()) } else { Err(format!("{what}: {seen:?}, expected {expected:?}")) }
}
