//! Want of descriptors or memory, which makes any file look absent. Whoever reads files tells it from their absence
//! here, and names its remedy.

use std::{error::Error, io};

use rustix::{
    fd::AsFd,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{
    hooks::remedy,
    load::{chain, errno},
};

/// Descriptors that a reading of the maps finds free before it begins: more than a pass and a scrape open at once.
const SPARE: usize = 16;

/// The soft limit on descriptors that is asked for, if the hard one allows: clients, maps and programs take a few hundred.
const DESCRIPTORS: u64 = 4096;

/// Whether a call failed for want of descriptors or memory, however its error is wrapped.
#[must_use]
pub fn is_short(error: &(dyn Error + 'static)) -> bool {
    matches!(errno(error), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

/// An error with all its causes, and the remedy where something was short.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    if is_short(error) { format!("{}; {}", chain(error), remedy_of(error)) } else { chain(error) }
}

/// What is there; `None` if it is absent for another reason than want, which is an error.
pub fn unless_short<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_short(&error) => Err(error),
        Err(_) => Ok(None),
    }
}

/// What to do about this error: the remedy for want, else `other`.
#[must_use]
pub fn remedy_or(error: &(dyn Error + 'static), other: &'static str) -> &'static str {
    if is_short(error) { remedy_of(error) } else { other }
}

/// What to do about an error of the kernel's, whatever the call.
#[must_use]
pub fn remedy_of(error: &(dyn Error + 'static)) -> &'static str {
    remedy(errno(error).unwrap_or_default())
}

/// Fails unless some more descriptors can be had. They are given back at once.
pub fn check_descriptors(any: impl AsFd) -> io::Result<()> {
    let spare: Result<Vec<_>, _> = (0..SPARE).map(|_| rustix::io::fcntl_dupfd_cloexec(&any, 0)).collect();
    spare.map(drop).map_err(io::Error::from)
}

/// Raises the soft limit on descriptors as far as the hard one allows, and as far as the agent needs.
pub fn lift_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |hard| hard.min(DESCRIPTORS));
    if current.is_some_and(|soft| soft < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::debug!(%error, "RLIMIT_NOFILE stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_is_told_from_absence() {
        let error = io::Error::from_raw_os_error;
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert!(unless_short::<()>(Err(error(errno))).is_err());
            assert_ne!(remedy_or(&error(errno), "mount proc"), "mount proc");
        }
        for errno in [libc::ENOENT, libc::EACCES] {
            assert_eq!(unless_short::<()>(Err(error(errno))).unwrap(), None);
            assert_eq!(remedy_or(&error(errno), "mount proc"), "mount proc");
        }
        assert_eq!(unless_short(Ok(1)).unwrap(), Some(1));
    }

    #[test]
    fn a_remedy_is_named_for_want_however_it_is_wrapped() {
        #[derive(Debug, thiserror::Error)]
        #[error("a step failed")]
        struct Step(#[source] io::Error);
        let wrapped = |errno| io::Error::other(Step(io::Error::from_raw_os_error(errno)));
        assert!(explain(&wrapped(libc::EMFILE)).ends_with("(EMFILE); allow more open files (ulimit -n, LimitNOFILE=)"));
        assert!(explain(&wrapped(libc::ENOENT)).ends_with("(ENOENT)"));
    }

    #[test]
    fn descriptors_that_were_tried_are_given_back() {
        for _ in 0..100 {
            check_descriptors(io::stdin()).or_else(|_| check_descriptors(io::stderr())).unwrap();
        }
    }
}
