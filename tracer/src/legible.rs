//! Text that somebody else chose, as people may be shown it: whatever a terminal would obey or hide becomes visible, and
//! nothing is longer than a screen bears.
//!
//! The one way on which names of processes, units, pods and namespaces come to a terminal or into a command that is to
//! be copied. Must not be used for what programs read: labels and JSON have the name as it is. Pure.

use std::borrow::Cow;

/// Marks that may stand on one character: more than any script needs, and few enough to stay on their line.
const MARKS_MAX: usize = 4;
/// The longest text: a paragraph of advice is shorter, and so are names of files, units and pods (255 bytes).
const CHARS_MAX: usize = 4096;
const ELLIPSIS: char = '…';

/// The text without anything that a terminal would obey instead of showing it, or show without room of its own: controls,
/// what turns the direction of writing, and characters of no width become U+FFFD, and so do more marks than a character
/// bears. Beyond 4096 characters the text is cut.
#[must_use]
pub fn legible(text: &str) -> Cow<'_, str> {
    if text.len() <= CHARS_MAX && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len().min(CHARS_MAX));
    // A mark at the beginning would stand on what comes before the text.
    let mut marks = MARKS_MAX;
    let mut room = CHARS_MAX;
    for c in text.chars() {
        if room == 0 {
            shown.push(ELLIPSIS);
            break;
        }
        room -= 1;
        if is_obeyed(c) {
            shown.push(char::REPLACEMENT_CHARACTER);
            marks = 0;
        } else if !is_mark(c) {
            shown.push(c);
            marks = 0;
        } else {
            marks += 1;
            match marks {
                1..=MARKS_MAX => shown.push(c),
                // One for all that follow.
                _ if !shown.ends_with(char::REPLACEMENT_CHARACTER) => shown.push(char::REPLACEMENT_CHARACTER),
                _ => room += 1,
            }
        }
    }
    Cow::Owned(shown)
}

/// Whether the text is shown just as it is.
#[must_use]
pub fn is_legible(text: &str) -> bool {
    legible(text) == text
}

fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}'
            | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Whether it stands on the character before it, without a column of its own.
fn is_mark(c: char) -> bool {
    unicode_width::UnicodeWidthChar::width(c) == Some(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        assert_eq!(legible("a\x1b[2Jb\r\nc\u{9b}d"), "a\u{FFFD}[2Jb\u{FFFD}\u{FFFD}c\u{FFFD}d");
        assert_eq!(legible("ab\u{202e}dc\u{200d}e\u{fe0f}"), "ab\u{FFFD}dc\u{FFFD}e\u{FFFD}");
        assert_eq!(legible("a\u{2066}b\u{200b}\u{feff}\u{34f}"), "a\u{FFFD}b\u{FFFD}\u{FFFD}\u{FFFD}");
        assert!(matches!(legible("nginx"), Cow::Borrowed("nginx")));
        assert_eq!(legible("Größe 漢字 e\u{301}"), "Größe 漢字 e\u{301}");
        assert!(is_legible("Größe") && !is_legible("a\u{202e}"));
    }

    #[test]
    fn marks_are_few_and_stand_on_something() {
        assert_eq!(legible("\u{301}a"), "\u{FFFD}a");
        let many = format!("a{}b\u{302}", "\u{301}".repeat(100_000));
        assert_eq!(legible(&many), format!("a{}\u{FFFD}b\u{302}", "\u{301}".repeat(4)));
    }

    #[test]
    fn a_text_ends() {
        let shown = legible(&"x".repeat(100_000)).into_owned();
        assert_eq!((shown.chars().count(), shown.ends_with("xx…")), (CHARS_MAX + 1, true));
        assert_eq!(legible(&"\u{202e}".repeat(100_000)).chars().count(), CHARS_MAX + 1);
    }

    proptest! {
        #[test]
        fn what_was_made_legible_stays_so(text in any::<String>()) {
            let shown = legible(&text).into_owned();
            prop_assert!(!shown.chars().any(is_obeyed));
            prop_assert!(is_legible(&shown), "{:?}", shown);
        }
    }
}
