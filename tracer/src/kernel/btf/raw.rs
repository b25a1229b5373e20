//! The BTF file format: header, type records, strings.
//!
//! Owns the byte layout and every bounds check. Knows nothing of what a type means; that is the
//! parent module's. One scan at the start records where each type begins, and everything else is
//! read in place, so the cost is the file itself plus four bytes a type.

use std::ops::Range;

use super::BtfError;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// Magic, version, flags and five words. Later versions of the header only append.
const HEADER_LEN: usize = 24;
/// Name, info, and size or type.
const RECORD_LEN: usize = 12;

/// `BTF_KIND_*`, numbered as in the kernel's `include/uapi/linux/btf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Int = 1,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    /// In the order of their numbers, which start at one.
    pub(super) const ALL: [Self; 19] = [
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::Datasec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    fn from_number(number: u32) -> Option<Self> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Whether the type only lends another one a name or a qualifier.
    pub(super) const fn is_alias(self) -> bool {
        matches!(self, Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag)
    }

    /// Bytes that follow the record: for all of it, and for each of its `vlen` entries.
    pub(super) const fn trailing(self) -> (usize, usize) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (4, 0),
            Self::Array => (12, 0),
            Self::Enum | Self::FuncProto => (0, 8),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 12),
            Self::Ptr
            | Self::Fwd
            | Self::Typedef
            | Self::Volatile
            | Self::Const
            | Self::Restrict
            | Self::Func
            | Self::Float
            | Self::TypeTag => (0, 0),
        }
    }
}

/// One type record, decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) kind: Kind,
    /// Number of members, enumerators or parameters.
    pub(super) vlen: usize,
    /// Struct and union: members carry a bit-field size. Enum: values are signed.
    pub(super) flag: bool,
    /// Offset of the name in the string section; 0 = anonymous.
    pub(super) name: u32,
    /// Bytes, or the type that this one refers to, by kind.
    pub(super) size_or_id: u32,
    /// Where the trailing data starts.
    data: usize,
}

/// A BTF file whose every record is known to lie within it.
#[derive(Debug)]
pub(super) struct RawBtf {
    bytes: Vec<u8>,
    /// Where each type begins; type 1 comes first, since type 0 is `void`.
    starts: Vec<u32>,
    strings: Range<usize>,
}

impl RawBtf {
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let (types, strings) = sections(&bytes)?;
        let starts = scan(&bytes, types)?;
        Ok(Self { bytes, starts, strings })
    }

    /// Numbers of all types, `void` left out.
    pub(super) fn ids(&self) -> Range<u32> {
        // Each start is a distinct u32, so their count fits as well.
        1..u32::try_from(self.starts.len()).unwrap_or(u32::MAX - 1) + 1
    }

    /// The type with this number; none for `void` and for numbers out of range.
    pub(super) fn get(&self, id: u32) -> Option<Type> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        let start = usize::try_from(*self.starts.get(index)?).ok()?;
        record(&self.bytes, start).ok()
    }

    /// Word number `index` of the data that follows the type's record.
    pub(super) fn word(&self, of: &Type, index: usize) -> Option<u32> {
        word(&self.bytes, of.data.checked_add(index.checked_mul(4)?)?)
    }

    /// The three words of a struct's or union's member: name, type, and offset in bits.
    pub(super) fn member(&self, of: &Type, index: usize) -> Option<[u32; 3]> {
        let first = index.checked_mul(3)?;
        Some([self.word(of, first)?, self.word(of, first + 1)?, self.word(of, first + 2)?])
    }

    /// An array's element type and number of elements.
    pub(super) fn array(&self, of: &Type) -> Option<(u32, u32)> {
        Some((self.word(of, 0)?, self.word(of, 2)?))
    }

    /// Whether the string at this offset of the string section is `name`.
    pub(super) fn name_is(&self, offset: u32, name: &str) -> bool {
        self.string_bytes(offset)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The string at this offset, empty if it is not one.
    pub(super) fn name(&self, offset: u32) -> &str {
        let rest = self.string_bytes(offset).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(0);
        rest.get(..end).and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
    }

    fn string_bytes(&self, offset: u32) -> Option<&[u8]> {
        self.bytes.get(self.strings.clone())?.get(usize::try_from(offset).ok()?..)
    }
}

/// Finds the type and the string section.
fn sections(bytes: &[u8]) -> Result<(Range<usize>, Range<usize>), BtfError> {
    let magic = bytes.first_chunk().ok_or(BtfError::Truncated { offset: 0 })?;
    match u16::from_ne_bytes(*magic) {
        MAGIC => {}
        other if other.swap_bytes() == MAGIC => return Err(BtfError::ForeignEndian),
        other => return Err(BtfError::BadMagic(other)),
    }
    match bytes.get(2) {
        Some(&VERSION) => {}
        Some(&other) => return Err(BtfError::UnknownVersion(other)),
        None => return Err(BtfError::Truncated { offset: 2 }),
    }
    let header_len = header_word(bytes, 4)?;
    if header_len < HEADER_LEN {
        return Err(BtfError::Malformed { offset: 4, what: "the header is too short" });
    }
    let section = |at| -> Result<Range<usize>, BtfError> {
        let start = header_len.saturating_add(header_word(bytes, at)?);
        let end = start.saturating_add(header_word(bytes, at + 4)?);
        if end > bytes.len() {
            return Err(BtfError::Truncated { offset: bytes.len() });
        }
        Ok(start..end)
    };
    Ok((section(8)?, section(16)?))
}

/// Records where each type starts, which proves that every one of them lies within the section.
fn scan(bytes: &[u8], section: Range<usize>) -> Result<Vec<u32>, BtfError> {
    // A vmlinux has 30 bytes a type on average; half of that wastes no second allocation.
    let mut starts = Vec::with_capacity(section.len() / 32);
    let within = bytes.get(..section.end).unwrap_or_default();
    let mut at = section.start;
    while at < section.end {
        let start = u32::try_from(at).map_err(|_| BtfError::Malformed { offset: at, what: "larger than 4 GiB" })?;
        let ty = record(within, at)?;
        let (fixed, each) = ty.kind.trailing();
        let end = ty.data + fixed + each * ty.vlen;
        if end > section.end {
            return Err(BtfError::Truncated { offset: at });
        }
        starts.push(start);
        at = end;
    }
    starts.shrink_to_fit();
    Ok(starts)
}

fn record(bytes: &[u8], at: usize) -> Result<Type, BtfError> {
    let truncated = || BtfError::Truncated { offset: at };
    let field = |offset| at.checked_add(offset).and_then(|at| word(bytes, at)).ok_or_else(truncated);
    let info = field(4)?;
    let number = (info >> 24) & 0x1f;
    Ok(Type {
        kind: Kind::from_number(number).ok_or(BtfError::UnknownKind { kind: number, offset: at })?,
        vlen: (info & 0xffff) as usize,
        flag: info >> 31 == 1,
        name: field(0)?,
        size_or_id: field(8)?,
        data: at.checked_add(RECORD_LEN).ok_or_else(truncated)?,
    })
}

fn header_word(bytes: &[u8], at: usize) -> Result<usize, BtfError> {
    let word = word(bytes, at).ok_or(BtfError::Truncated { offset: at })?;
    // A section that cannot be addressed reaches beyond the file in any case.
    Ok(usize::try_from(word).unwrap_or(usize::MAX))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}
