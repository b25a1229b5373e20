//! What standard output and standard error lead to: whether colours go there, and what a reader that left means.
//!
//! One rule for all commands and for clap's help, which asks the same library: `NO_COLOR` turns colours off,
//! `CLICOLOR_FORCE` on, `CLICOLOR=0` off; else a terminal that is not `dumb` gets them.

use std::io;

use anstream::{AutoStream, ColorChoice};

/// Whether what is written to standard output is coloured.
#[must_use]
pub fn colors_stdout() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// The same of standard error.
#[must_use]
pub fn colors_stderr() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// A reader that left, as `head` does, has read what it wanted: no failure. Other errors stay.
pub fn unless_reader_left(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reader_that_left_is_excused() {
        let of = |kind: io::ErrorKind| unless_reader_left(Err(kind.into())).map_err(|error| error.kind());
        assert_eq!(of(io::ErrorKind::BrokenPipe), Ok(()));
        assert_eq!(of(io::ErrorKind::StorageFull), Err(io::ErrorKind::StorageFull));
        assert!(unless_reader_left(Ok(())).is_ok());
    }
}
