//! Text of label values.
//!
//! Process names, cgroup paths and the like are bytes that anybody can choose. Here they become
//! UTF-8 without control characters, so that every series stays on one line of the exposition.
//! Quotes, backslashes and newlines pass: the encoder escapes them.

/// A label value from bytes that somebody else chose: without trailing NULs, invalid UTF-8 and
/// control characters other than newline replaced by U+FFFD.
#[must_use]
pub fn label(bytes: &[u8]) -> String {
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut value = String::new();
    push(&mut value, &String::from_utf8_lossy(&bytes[..used]));
    value
}

/// Appends `text` as a label value may show it.
pub(super) fn push(out: &mut String, text: &str) {
    if text.bytes().any(may_begin_control) {
        out.extend(text.chars().map(|c| if c != '\n' && c.is_control() { char::REPLACEMENT_CHARACTER } else { c }));
    } else {
        out.push_str(text);
    }
}

/// Whether a control character may begin here: ASCII's, or 0xC2, the lead byte of U+0080 to U+009F.
/// Nearly no value has one, and looking at bytes costs a tenth of looking at characters.
const fn may_begin_control(byte: u8) -> bool {
    byte.is_ascii_control() || byte == 0xC2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trailing_nuls_end_a_kernel_string() {
        assert_eq!(label(b"nginx\0\0\0"), "nginx");
        assert_eq!(label(b"\0\0"), "");
        assert_eq!(label(b""), "");
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        assert_eq!(label(b"a\xffb"), "a\u{FFFD}b");
        assert_eq!(label(b"a\0b\rc\x1b[1m\x7f"), "a\u{FFFD}b\u{FFFD}c\u{FFFD}[1m\u{FFFD}");
        assert_eq!(label("a\u{85}b".as_bytes()), "a\u{FFFD}b");
    }

    #[test]
    fn what_the_encoder_escapes_is_kept() {
        assert_eq!(label(b"q\"b\\n\n"), "q\"b\\n\n");
        assert_eq!(label("Größe ©".as_bytes()), "Größe ©");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_without_control_characters(bytes: Vec<u8>) {
            let value = label(&bytes);
            prop_assert!(!value.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert_eq!(label(value.as_bytes()), value.clone());
        }
    }
}
