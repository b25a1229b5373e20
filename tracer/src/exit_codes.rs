//! The exit codes of every command, in one table: help, manual pages and a test that provokes each code are made
//! from it.
//!
//! Holds words alone; [`crate::failure`] and the commands give the codes.

use crate::failure::{UNAVAILABLE, USAGE};

/// An exit code and what it says.
pub type Code = (u8, &'static str);

/// What `tracer` itself gives, and commands that are not in [`OF_COMMANDS`].
pub const GENERAL: &[Code] = &[
    (0, "done"),
    (1, "failed"),
    (USAGE, "wrong flags or configuration"),
    (UNAVAILABLE, "this kernel or these rights will not do"),
];

/// The commands whose codes say more.
pub const OF_COMMANDS: &[(&str, &[Code])] = &[
    (
        "run",
        &[
            (0, "stopped by SIGINT or SIGTERM"),
            (1, "failed, as where the address is in use"),
            (USAGE, "wrong flags or configuration"),
            (UNAVAILABLE, "this kernel or these rights will not do"),
        ],
    ),
    (
        "doctor",
        &[
            (0, "everything counts at its best"),
            (1, "degraded, or the findings could not be written"),
            (2, "unusable"),
            (USAGE, "wrong flags or configuration"),
        ],
    ),
    (
        "advise",
        &[
            (0, "nothing binds"),
            (1, "something is at risk, or the findings could not be written"),
            (2, "a limit binds"),
            (USAGE, "wrong flags or input"),
            (UNAVAILABLE, "no agent there, or no rights"),
        ],
    ),
    (
        "replay",
        &[
            (0, "shown as far as the recording goes"),
            (1, "failed, as where the events could not be written"),
            (USAGE, "wrong flags, or a file that is no recording"),
        ],
    ),
    ("completions", &[(0, "printed"), (1, "failed, as where they could not be written"), (USAGE, "no such shell")]),
    (
        "top",
        &[
            (0, "left"),
            (1, "failed"),
            (USAGE, "wrong flags or input"),
            (UNAVAILABLE, "no agent there, or no rights for a look of its own"),
        ],
    ),
];

/// The paragraph of help that lists codes begins so.
pub const PARAGRAPH: &str = "Exit codes: ";

/// The codes of a command.
#[must_use]
pub fn of(command: &str) -> &'static [Code] {
    OF_COMMANDS.iter().find(|(name, _)| *name == command).map_or(GENERAL, |(_, codes)| codes)
}

/// The paragraph of help for these codes.
#[must_use]
pub fn paragraph(codes: &[Code]) -> String {
    let listed: Vec<String> = codes.iter().map(|(code, meaning)| format!("{code} {meaning}")).collect();
    format!("{PARAGRAPH}{}.", listed.join("; "))
}

/// The codes that a paragraph of help lists, so that manual pages say what help says.
#[must_use]
pub fn listed(paragraph: &str) -> Vec<(u8, String)> {
    let mut codes: Vec<(u8, String)> = Vec::new();
    let text = paragraph.strip_prefix(PARAGRAPH).unwrap_or(paragraph).trim_end().trim_end_matches('.');
    for piece in text.split(',').flat_map(|piece| piece.split(';')) {
        let piece = piece.trim();
        let code = piece.split_once(char::is_whitespace).and_then(|(code, rest)| Some((code.parse().ok()?, rest)));
        match (code, codes.last_mut()) {
            (Some((code, meaning)), _) => codes.push((code, meaning.trim().to_owned())),
            (None, Some((_, meaning))) => {
                meaning.push_str(", ");
                meaning.push_str(piece);
            }
            (None, None) => {}
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_are_read_back_from_the_paragraph() {
        for (_, codes) in OF_COMMANDS.iter().chain(&[("tracer", GENERAL)]) {
            assert!(codes.is_sorted_by_key(|(code, _)| *code), "{codes:?}");
            let read = listed(&paragraph(codes));
            let read: Vec<_> = read.iter().map(|(code, meaning)| (*code, meaning.as_str())).collect();
            assert_eq!(read, *codes);
        }
    }

    #[test]
    fn commas_separate_as_well() {
        let read = listed("Exit codes: 0 a, or b, 64 wrong\nflags; 69 c.");
        assert_eq!(read, [(0, "a, or b".to_owned()), (64, "wrong\nflags".to_owned()), (69, "c".to_owned())]);
        assert_eq!(listed("Exit codes: none"), []);
    }
}
