//! How a command fails: one line, and the exit code that tells a script what kind of failure it was.

use std::{fmt, process::ExitCode};

/// Wrong flags or configuration (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// This kernel, or this process's rights, will not do (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;

/// A failure with its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The process's exit code.
    pub code: u8,
    /// Cause and remedy, on one line.
    pub message: String,
}

impl Failure {
    /// Wrong flags or configuration.
    #[must_use]
    pub fn usage(error: &dyn fmt::Display) -> Self {
        Self::new(USAGE, &error.to_string())
    }

    /// The kernel or the rights will not do.
    #[must_use]
    pub fn unusable(error: &dyn fmt::Display) -> Self {
        Self::new(UNAVAILABLE, &error.to_string())
    }

    /// Anything else.
    #[must_use]
    pub fn other(message: impl AsRef<str>) -> Self {
        Self::new(1, message.as_ref())
    }

    fn new(code: u8, message: &str) -> Self {
        Self { code, message: message.replace('\n', " ") }
    }

    /// The exit code for `main`.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_its_code() {
        assert_eq!(Failure::usage(&"a\nb"), Failure { code: 64, message: "a b".into() });
        assert_eq!(Failure::unusable(&"c").code, 69);
        assert_eq!(Failure::other("d").code, 1);
    }
}
