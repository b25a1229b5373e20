//! Recordings come back as they were written, whole or in part, and nothing makes the reader stumble.

use proptest::prelude::*;
use tracer_ebpf::event::{Connection, Header, Kind, Listen, SIZE_MAX, size_of_kind};

use super::{reader::RecordingError, *};
use crate::{events::names::Listener, pipeline::attribute::Owner};

fn preamble() -> Preamble {
    Preamble { tracer: "0.1.0".into(), kernel: "6.18.0".into(), architecture: "x86_64".into(), clock_offset_ns: -5 }
}

fn name() -> Name {
    let owner = Owner { pod: "web-0".into(), ..Owner::default() };
    let listener = Listener { address: "::".parse().unwrap(), process: "nginx".into(), owner };
    Name::Listener { netns: 7, port: 80, listener }
}

fn end() -> End {
    End { losses: vec![Loss { kind: "drop".into(), ring: 1, rate: 2, decode: 3, queue: 4 }] }
}

/// A recording of these records with a name between the first and the others.
fn recording(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &preamble()).unwrap();
    for (number, record) in records.iter().enumerate() {
        if number == 1 {
            writer.name(&name()).unwrap();
        }
        writer.record(record).unwrap();
    }
    let written = writer.bytes();
    assert_eq!(bytes.len() as u64, written);
    let mut writer = Writer { out: bytes, bytes: written };
    writer.frame(END, &serde_json::to_vec(&end()).unwrap(), TEXT_BYTES_MAX).unwrap();
    writer.out
}

/// The records that can be read, and how it ends.
fn read(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, Option<u64>), RecordingError> {
    let (_, mut reader) = Reader::new(bytes)?;
    let mut records = Vec::new();
    loop {
        match reader.next_frame()? {
            Frame::Record(record) => records.push(record.to_vec()),
            Frame::Name(found) => assert_eq!(found, name()),
            Frame::End(found) => {
                assert_eq!(found, end());
                return Ok((records, None));
            }
            Frame::Cut(at) => return Ok((records, Some(at))),
        }
    }
}

#[test]
fn every_cut_is_read_up_to_the_last_whole_record() {
    let records = [vec![1; 72], vec![2; 88], vec![3; 96]];
    let whole = recording(&records);
    assert_eq!(Reader::new(&whole[..]).unwrap().0, preamble());
    let begin = 16 + serde_json::to_vec(&preamble()).unwrap().len();
    for length in begin..whole.len() {
        let (found, cut) = read(&whole[..length]).unwrap();
        assert_eq!(found, records[..found.len()], "{length}");
        assert!(cut.is_some_and(|cut| cut <= length as u64), "{length}: {cut:?}");
    }
    let (found, cut) = read(&whole).unwrap();
    assert_eq!((found.as_slice(), cut), (&records[..], None));
    for length in 0..begin {
        assert!(read(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn what_cannot_be_read_says_why_and_what_to_do() {
    let whole = recording(&[vec![1; 72]]);
    let with = |place: usize, byte| {
        let mut bytes = whole.clone();
        bytes[place] = byte;
        read(&bytes).unwrap_err().to_string()
    };
    assert!(read(b"").unwrap_err().to_string().starts_with("this is no recording"));
    assert!(with(0, b'X').starts_with("this is no recording"));
    assert_eq!(
        with(8, 9),
        "the recording has format 9, and this tracer reads format 1: replay it with the tracer that wrote it"
    );
    assert!(with(10, 3 - BYTE_ORDER).contains("another byte order"));
    let begin = 16 + serde_json::to_vec(&preamble()).unwrap().len();
    assert_eq!(with(begin, 77), format!("the recording is damaged at byte {begin}: no frame begins so"));
    assert!(with(begin + 3, 0xff).contains("longer than any of its type"));
    assert!(with(16, b'X').contains("preamble cannot be understood"));
}

/// Whoever changes a record's layout gives the format another number.
#[test]
fn the_layout_of_records_is_that_of_the_version() {
    let sizes: Vec<usize> = Kind::ALL.iter().map(|kind| size_of_kind(*kind)).collect();
    let offsets = [
        std::mem::offset_of!(Header, kind),
        std::mem::offset_of!(Header, netns_inum),
        std::mem::offset_of!(Connection, local_port),
        std::mem::offset_of!(Listen, comm),
    ];
    assert_eq!((VERSION, sizes, offsets), (1, vec![88, 80, 72, 80, 80, 96, 80, 80], [24, 28, 32, 80]));
}

proptest! {
    #[test]
    fn records_come_back(records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..SIZE_MAX), 0..20)) {
        prop_assert_eq!(read(&recording(&records)).unwrap(), (records, None));
    }

    #[test]
    fn no_bytes_make_the_reader_stumble(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut recording = recording(&[]);
        let end = recording.len();
        recording.truncate(end - 60.min(end));
        recording.extend(bytes);
        let Ok((_, mut reader)) = Reader::new(&recording[..]) else { return Ok(()) };
        while let Ok(Frame::Record(_) | Frame::Name(_)) = reader.next_frame() {}
    }

    #[test]
    fn no_flipped_byte_makes_the_reader_stumble(place in 0..400usize, byte in any::<u8>()) {
        let mut recording = recording(&[vec![7; 72], vec![8; 80]]);
        if let Some(there) = recording.get_mut(place) { *there = byte; }
        let Ok((_, mut reader)) = Reader::new(&recording[..]) else { return Ok(()) };
        while let Ok(Frame::Record(_) | Frame::Name(_)) = reader.next_frame() {}
    }
}
