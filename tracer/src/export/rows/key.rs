//! Under what a row is filed: its label values as one text, group labels as a number.
//!
//! A listener's eight labels stand in a dozen families, and the collector adds those in a row.
//! [`Groups`] gives the set a number, so it is built, compared and (by the encoder) escaped once.

use std::collections::BTreeMap;

use super::super::value;

/// Ends every label value in a key. No value holds it, and sorting by the key is sorting by one
/// value after the other because nothing sorts before it.
pub(in super::super) const SEPARATOR: char = '\0';

/// The key of label values: as a label may show them, each followed by [`SEPARATOR`].
pub(super) fn key(labels: &[&str]) -> String {
    // To size, or making a box of it would copy it again.
    let mut key = String::with_capacity(labels.iter().map(|label| label.len() + 1).sum());
    for label in labels {
        value::push(&mut key, label);
        key.push(SEPARATOR);
    }
    key
}

/// Every set of group label values, once.
#[derive(Debug, Default)]
pub(super) struct Groups {
    numbers: BTreeMap<Box<str>, u32>,
    /// Key of the labels asked for last, and their number if they have one.
    last: String,
    last_number: Option<u32>,
}

impl Groups {
    /// The number of these label values. New ones get a number only if `admit`: a row that finds no
    /// room must not take room here.
    pub(super) fn number(&mut self, labels: &[&str], admit: bool) -> Option<u32> {
        if self.last_number.is_none() || !self.is_last(labels) {
            self.last = key(labels);
            self.last_number = self.numbers.get(self.last.as_str()).copied();
        }
        if self.last_number.is_none() && admit {
            let number = u32::try_from(self.numbers.len()).ok()?;
            self.numbers.insert(self.last.as_str().into(), number);
            self.last_number = Some(number);
        }
        self.last_number
    }

    /// Every set with its number, in the order of the labels.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.numbers.iter().map(|(values, number)| (values.as_ref(), *number))
    }

    /// Byte by byte: labels are short, and eight calls of memcmp a row were half the time of adding.
    fn is_last(&self, labels: &[&str]) -> bool {
        const END: u8 = SEPARATOR as u8;
        let mut last = self.last.bytes();
        let mut same = |label: &&str| {
            // A separator inside a value must not pass for the end of one.
            label.bytes().all(|byte| byte != END && last.next() == Some(byte)) && last.next() == Some(END)
        };
        labels.iter().all(&mut same) && last.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_labels_have_the_same_number() {
        let mut groups = Groups::default();
        let sets: [&[&str]; 5] = [&["", "b"], &[], &["b"], &["b", ""], &["b\0"]];
        let numbers: Vec<_> = sets.iter().map(|set| groups.number(set, true)).collect();
        assert_eq!(numbers, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        for (set, number) in sets.iter().zip(numbers) {
            assert_eq!(groups.number(set, true), number);
            assert_eq!(groups.number(set, false), number);
        }
    }

    #[test]
    fn no_number_without_admission() {
        let mut groups = Groups::default();
        assert_eq!(groups.number(&["a"], false), None);
        assert_eq!(groups.iter().len(), 0);
        assert_eq!(groups.number(&["a"], true), Some(0));
    }

    #[test]
    fn groups_come_in_the_order_of_labels() {
        let mut groups = Groups::default();
        for set in [["b", "a"], ["a", "b"], ["", "z"], ["a b", ""]] {
            groups.number(&set, true);
        }
        let order: Vec<_> = groups.iter().map(|(_, number)| number).collect();
        assert_eq!(order, [2, 1, 3, 0]);
    }
}
