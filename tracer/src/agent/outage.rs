//! A failure that may come back in each pass: said when it begins, when it changes and when it ends. Pure.

use std::{error::Error, io};

use crate::kernel::shortage;

/// What was said last.
#[derive(Debug, Default)]
pub struct Outage(Option<String>);

impl Outage {
    /// Notes a failure; gives what is to be said of it, unless that was said last.
    pub fn begins(&mut self, error: &(dyn Error + 'static)) -> Option<&str> {
        let said = shortage::explain(error);
        if self.0.as_ref() == Some(&said) {
            return None;
        }
        Some(self.0.insert(said))
    }

    /// Notes a success; whether a failure came before it.
    pub fn ends(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// A step of a pass that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}")]
struct StepFailed {
    step: &'static str,
    #[source]
    error: io::Error,
}

/// Names the step that an error is of.
pub fn of(step: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), StepFailed { step, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_and_again_when_it_changes_or_comes_back() {
        let [refused, full] = [1, 12].map(io::Error::from_raw_os_error);
        let mut outage = Outage::default();
        assert!(!outage.ends(), "nothing came before");
        let named = of("the maps")(io::Error::from_raw_os_error(1));
        let line = outage.begins(&named).unwrap();
        assert!(line.starts_with("the maps: ") && line.ends_with("(EPERM)"), "{line}");
        assert!(outage.begins(&refused).unwrap().contains("EPERM"));
        assert_eq!(outage.begins(&refused), None);
        assert!(outage.begins(&full).unwrap().contains("ENOMEM"));
        assert!(outage.ends());
        assert!(!outage.ends());
        assert!(outage.begins(&full).is_some());
    }
}
