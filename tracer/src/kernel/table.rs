//! A hash map of counts, and the two ways of reading all its rows.
//!
//! By an iterator where the kernel grants one, else by look-ups in batches. Both read a row that stays
//! exactly once, whatever comes meanwhile. What goes meanwhile can hide another row from the iterator,
//! so [`super::maps::Maps`] lets nothing be removed while it reads.

use std::{
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    sys::{Map, link_map_iterator, open_iterator},
    walk::READ_BYTES,
};

/// Rows of the end of one `read()` that the next one may repeat: those of one bucket. The kernel makes as many
/// buckets as entries, so one holds a handful; that sixty-four meet there is beyond chance.
const REPEATED_MAX: usize = 64;

/// Duplicated descriptor of a map, with its iterator.
#[derive(Debug)]
pub struct Table {
    map: OwnedFd,
    iterator: OnceLock<OwnedFd>,
}

impl Table {
    /// A map that is read by look-ups.
    #[must_use]
    pub fn new(map: OwnedFd) -> Self {
        Self { map, iterator: OnceLock::new() }
    }

    /// Ties a program that writes each key and value of the map to its file.
    pub fn link(&self, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        link_map_iterator(program, self.map.as_fd())
    }

    /// From now on reads by such a link.
    pub fn read_by(&self, link: OwnedFd) {
        // Set before: the older one does the same.
        let _ = self.iterator.set(link);
    }

    /// Access to single rows.
    pub fn map<K, V>(&self) -> io::Result<Map<'_, K, V>>
    where
        K: FromBytes + IntoBytes + Immutable + Copy,
        V: FromBytes + IntoBytes + Immutable + Copy,
    {
        Map::new(self.map.as_fd())
    }

    /// Replaces the content of `out` by all rows, in no order. A row that comes meanwhile may be missed.
    pub fn read_all<K, V>(&self, out: &mut Vec<(K, V)>) -> io::Result<()>
    where
        K: FromBytes + IntoBytes + Immutable + Copy + PartialEq,
        V: FromBytes + IntoBytes + Immutable + Copy,
    {
        let Some(link) = self.iterator.get() else { return self.map()?.read_all(out) };
        out.clear();
        let mut file = open_iterator(link.as_fd())?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => append(out, &buffer[..read]),
                // The kernel takes a break after a million rows.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Appends the rows of one `read()`. Between two of them the kernel remembers its place as a bucket
/// and a number of rows in it, so that it repeats rows if others came to the front of that bucket.
fn append<K, V>(out: &mut Vec<(K, V)>, bytes: &[u8])
where
    K: FromBytes + Copy + PartialEq,
    V: FromBytes + Copy,
{
    let known = out.len();
    let tail = known.saturating_sub(REPEATED_MAX);
    for record in bytes.chunks_exact(size_of::<K>() + size_of::<V>()) {
        let (key, value) = record.split_at(size_of::<K>());
        let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) else { continue };
        let is_first_new = out.len() == known;
        if is_first_new && out[tail..].iter().any(|(seen, _)| *seen == key) {
            continue;
        }
        out.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(rows: &[(u64, u64)]) -> Vec<u8> {
        rows.iter().flat_map(|(key, value)| [key.to_ne_bytes(), value.to_ne_bytes()].concat()).collect()
    }

    #[test]
    fn rows_that_a_reading_repeats_count_once() {
        let mut rows = Vec::new();
        append::<u64, u64>(&mut rows, &bytes(&[(1, 10), (2, 20), (3, 30)]));
        // 7 came to the front of the bucket of 1 to 4, of which three had been shown.
        append(&mut rows, &bytes(&[(3, 31), (4, 40), (5, 50)]));
        append(&mut rows, &bytes(&[(4, 41), (5, 51), (6, 60)]));
        assert_eq!(rows, [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60)]);
    }

    #[test]
    fn only_the_end_of_what_was_read_is_looked_through() {
        let mut rows: Vec<(u64, u64)> = (0..200).map(|n| (n, n)).collect();
        append(&mut rows, &bytes(&[(199, 0), (150, 0), (200, 0), (199, 0)]));
        let last: Vec<u64> = rows[199..].iter().map(|row| row.0).collect();
        assert_eq!(last, [199, 200, 199], "only at the front can a row be one that was shown");
    }
}
