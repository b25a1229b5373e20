//! Text of a known width, and numbers short enough for a column.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What stands where a value is not known.
pub const UNKNOWN: &str = "–";
const ELLIPSIS: char = '…';

/// Columns of a terminal that the text takes.
#[must_use]
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text in exactly `width` columns, cut with an ellipsis or filled up, flush left or right.
#[must_use]
pub fn fit(text: &str, columns: usize, right: bool) -> String {
    let cut = cut(text, columns);
    let blank = " ".repeat(columns.saturating_sub(width(&cut)));
    if right { format!("{blank}{cut}") } else { format!("{cut}{blank}") }
}

/// The text in at most `columns` columns.
#[must_use]
pub fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let room = columns.saturating_sub(1);
    let mut taken = 0;
    let fits = |(_, c): &(usize, char)| {
        taken += c.width().unwrap_or(0);
        taken <= room
    };
    let mut cut: String = text.char_indices().take_while(fits).map(|(_, c)| c).collect();
    // Widths do not always add up by character.
    while width(&cut) > room {
        cut.pop();
    }
    if columns > 0 {
        cut.push(ELLIPSIS);
    }
    Cow::Owned(cut)
}

/// A count: exact below ten million.
#[must_use]
pub fn count(number: f64) -> String {
    if number.abs() < 1e7 { format!("{number:.0}") } else { scaled(number) }
}

/// So many a second.
#[must_use]
pub fn rate(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        small if small < 0.05 => "<0.1".to_owned(),
        small if small < 9.95 => format!("{small:.1}"),
        whole if whole < 1e5 => format!("{whole:.0}"),
        large => scaled(large),
    }
}

/// A part of a whole, in percent.
#[must_use]
pub fn share(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0%".to_owned(),
        small if small < 0.05 => "<0.1%".to_owned(),
        percent if percent < 99.95 => format!("{percent:.1}%"),
        percent if percent < 999.5 => format!("{percent:.0}%"),
        _ => ">999%".to_owned(),
    }
}

fn scaled(number: f64) -> String {
    let (mut scaled, mut unit) = (number / 1e3, "k");
    for next in ["M", "G", "T"] {
        if scaled.abs() < 999.95 {
            break;
        }
        scaled /= 1e3;
        unit = next;
    }
    format!("{scaled:.1}{unit}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::legible::legible;

    #[test]
    fn long_text_is_cut_where_a_character_ends() {
        assert_eq!(fit("nginx", 8, false), "nginx   ");
        assert_eq!(fit("nginx", 8, true), "   nginx");
        assert_eq!(fit("kube-apiserver", 8, false), "kube-ap…");
        // Two columns each: the third does not fit beside the ellipsis.
        assert_eq!(fit("漢字漢字", 6, false), "漢字… ");
        assert_eq!(fit("e\u{301}e\u{301}e\u{301}", 2, false), "e\u{301}…");
        assert_eq!((fit("ab", 1, false).as_str(), fit("ab", 0, false).as_str()), ("…", ""));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 7.0, 9_999_999.0, 12_345_678.0, 2.5e12].map(count), ["0", "7", "9999999", "12.3M", "2.5T"]);
        assert_eq!([0.0, 0.01, 0.25, 9.96, 312.4, 2.5e6].map(rate), ["0", "<0.1", "0.2", "10", "312", "2.5M"]);
        assert_eq!(
            [0.0, 0.0001, 0.012, 0.9999, 1.5, 99.0].map(share),
            ["0%", "<0.1%", "1.2%", "100%", "150%", ">999%"]
        );
    }

    proptest! {
        #[test]
        fn any_text_takes_the_columns_it_is_given(text in any::<String>(), columns in 0_usize..40, right in any::<bool>()) {
            let shown = fit(&legible(&text), columns, right);
            prop_assert_eq!(width(&shown), columns);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
