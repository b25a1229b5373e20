//! Where the running kernel keeps its fields, from the type information it carries (BTF).
//!
//! Answers the loader's questions: at which offset a struct has a member, how many arguments a
//! function or a tracepoint has, which number an enumerator is. Reads `/sys/kernel/btf/vmlinux`
//! once and resolves in place; drop the [`Btf`] when the questions are answered. Must not panic or
//! run long on any input; modules' (split) BTF is not read.

mod raw;
#[cfg(test)]
mod tests;

use std::{fs, io, path::Path};

use raw::{Kind, RawBtf, Type};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Steps along typedefs, qualifiers and arrays; the kernel's own limit (`MAX_RESOLVE_DEPTH`).
const CHAIN_MAX: usize = 32;

/// Members that one look-up may visit. The largest struct of a real kernel has some hundreds; the
/// bound is for corrupt files, whose anonymous members may contain each other.
const VISITS_MAX: usize = 100_000;

/// Structs of one name that a look-up tries. Kernels have two or three at most.
const DEFINITIONS_MAX: usize = 16;

/// Why the kernel's type information cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel was built without `CONFIG_DEBUG_INFO_BTF`.
    #[error("the kernel has no type information ({VMLINUX} is absent): it must be built with CONFIG_DEBUG_INFO_BTF=y")]
    NotFound,
    /// The file exists and cannot be read.
    #[error("reading {VMLINUX}: {0}")]
    Io(#[source] io::Error),
    /// The data ends within the header, a section or a type.
    #[error("BTF ends too early, at byte {offset}")]
    Truncated {
        /// Where the missing data should have been.
        offset: usize,
    },
    /// The data does not start like BTF.
    #[error("not BTF: it starts with {0:#06x}")]
    BadMagic(u16),
    /// BTF of a machine with the other byte order.
    #[error("BTF of the other byte order")]
    ForeignEndian,
    /// A version of the format that this reader does not know.
    #[error("BTF version {0} is not known")]
    UnknownVersion(u8),
    /// A kind of type that this reader does not know, and so cannot skip either.
    #[error("BTF type of unknown kind {kind} at byte {offset}")]
    UnknownKind {
        /// `BTF_KIND_*`.
        kind: u32,
        /// Where the type starts.
        offset: usize,
    },
    /// The data contradicts itself.
    #[error("malformed BTF at byte {offset}: {what}")]
    Malformed {
        /// Where.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Where a member lies, seen from the start of the path's first struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the outermost struct; of a bit-field, the byte with its first bit.
    pub offset: u32,
    /// Bits from the start of that byte; 0 except for bit-fields.
    pub bit: u8,
    /// Width of a bit-field, 0 for an ordinary member.
    pub bits: u8,
    /// Bytes of the member's type, 0 where the type has no size.
    pub size: u32,
    /// Whether the member is a pointer.
    pub is_pointer: bool,
}

/// A member while its path is still being walked; offsets in bits.
#[derive(Clone, Copy)]
struct Found {
    ty: u32,
    offset_bits: u64,
    bits: u8,
}

/// The kernel's type information.
#[derive(Debug)]
pub struct Btf {
    raw: RawBtf,
}

impl Btf {
    /// Reads the running kernel's type information: some 6 MB that live until the value is dropped.
    pub fn from_sys_fs() -> Result<Self, BtfError> {
        match fs::read(Path::new(VMLINUX)) {
            Ok(bytes) => Self::parse(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BtfError::NotFound),
            Err(error) => Err(BtfError::Io(error)),
        }
    }

    /// Takes over the content of a BTF file (not a split one).
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        RawBtf::parse(bytes).map(|raw| Self { raw })
    }

    /// Resolves `struct.member.member`, through embedded structs and unions, named or not,
    /// typedefs, qualifiers and the first element of arrays; not through pointers.
    #[must_use]
    pub fn member(&self, path: &str) -> Option<Member> {
        let (outer, members) = path.split_once('.')?;
        // Two files of the kernel may each have a struct of this name: one of them has the member.
        self.named(outer, |kind| matches!(kind, Kind::Struct | Kind::Union))
            .take(DEFINITIONS_MAX)
            .find_map(|(id, _)| self.walk(id, members))
    }

    /// How many parameters a kernel function has; `...` counts as one.
    #[must_use]
    pub fn func_args(&self, name: &str) -> Option<usize> {
        self.func_proto(name).map(|proto| proto.vlen)
    }

    /// Whether the kernel has a function of this name (and has not inlined it everywhere).
    #[must_use]
    pub fn has_func(&self, name: &str) -> bool {
        self.named(name, |kind| kind == Kind::Func).next().is_some()
    }

    /// How many arguments a tracepoint hands to a `tp_btf` program.
    #[must_use]
    pub fn tracepoint_args(&self, name: &str) -> Option<usize> {
        let (_, typedef) = self.named(&format!("btf_trace_{name}"), |kind| kind == Kind::Typedef).next()?;
        let pointer = self.raw.get(typedef.size_or_id).filter(|ty| ty.kind == Kind::Ptr)?;
        let proto = self.raw.get(pointer.size_or_id).filter(|ty| ty.kind == Kind::FuncProto)?;
        // The first one is the tracepoint's private `void *`, which programs do not get.
        proto.vlen.checked_sub(1)
    }

    /// The number of an enumerator; a negative one as its 64-bit two's complement.
    #[must_use]
    pub fn enum_value(&self, name: &str, enumerator: &str) -> Option<u64> {
        self.named(name, |kind| matches!(kind, Kind::Enum | Kind::Enum64))
            .find_map(|(_, ty)| self.enumerator(&ty, enumerator))
    }

    /// All enumerators of an enum with their numbers; of several enums of that name, the first.
    #[must_use]
    pub fn enumerators(&self, name: &str) -> Vec<(&str, u64)> {
        let found = self.named(name, |kind| matches!(kind, Kind::Enum | Kind::Enum64)).next();
        let Some((_, ty)) = found else { return Vec::new() };
        let words = enumerator_words(&ty);
        let at = |index| Some((self.raw.name(self.raw.word(&ty, index)?), self.enumerator_at(&ty, index)?));
        (0..ty.vlen).filter_map(|index| at(index * words)).collect()
    }

    /// The types of a function's parameters as C would write them, for diagnostics.
    #[must_use]
    pub fn func_prototype(&self, name: &str) -> Option<String> {
        let proto = self.func_proto(name)?;
        let parameters: Option<Vec<String>> =
            (0..proto.vlen).map(|index| Some(self.spell(self.raw.word(&proto, index * 2 + 1)?))).collect();
        Some(format!("{name}({})", parameters?.join(", ")))
    }

    fn func_proto(&self, name: &str) -> Option<Type> {
        let (_, func) = self.named(name, |kind| kind == Kind::Func).next()?;
        self.raw.get(func.size_or_id).filter(|ty| ty.kind == Kind::FuncProto)
    }

    fn named<'a>(
        &'a self,
        name: &'a str,
        wanted: impl Fn(Kind) -> bool + 'a,
    ) -> impl Iterator<Item = (u32, Type)> + 'a {
        self.raw
            .ids()
            .filter_map(|id| Some((id, self.raw.get(id)?)))
            .filter(move |(_, ty)| wanted(ty.kind) && self.raw.name_is(ty.name, name))
    }

    fn walk(&self, outer: u32, members: &str) -> Option<Member> {
        let mut found = Found { ty: outer, offset_bits: 0, bits: 0 };
        for name in members.split('.') {
            let inner = self.find_member(self.container(found.ty)?, name)?;
            found = Found { offset_bits: found.offset_bits.saturating_add(inner.offset_bits), ..inner };
        }
        let is_pointer = self.strip(found.ty).is_some_and(|ty| ty.kind == Kind::Ptr);
        Some(Member {
            offset: u32::try_from(found.offset_bits / 8).ok()?,
            bit: (found.offset_bits % 8) as u8,
            bits: found.bits,
            size: self.size(found.ty).unwrap_or(0),
            is_pointer,
        })
    }

    /// Looks for a member in a struct and in its anonymous structs and unions.
    fn find_member(&self, container: Type, name: &str) -> Option<Found> {
        let mut pending = vec![(container, 0)];
        let mut visits_left = VISITS_MAX;
        while let Some((container, base_bits)) = pending.pop() {
            for index in 0..container.vlen {
                visits_left = visits_left.checked_sub(1)?;
                let [member_name, ty, position] = self.raw.member(&container, index)?;
                let (offset, bits) =
                    if container.flag { (position & 0x00ff_ffff, (position >> 24) as u8) } else { (position, 0) };
                let offset_bits = base_bits + u64::from(offset);
                if member_name != 0 && self.raw.name_is(member_name, name) {
                    return Some(Found { ty, offset_bits, bits });
                }
                if member_name == 0
                    && let Some(inner) = self.strip(ty)
                    && matches!(inner.kind, Kind::Struct | Kind::Union)
                {
                    pending.push((inner, offset_bits));
                }
            }
        }
        None
    }

    fn enumerator(&self, ty: &Type, name: &str) -> Option<u64> {
        let words = enumerator_words(ty);
        let index = (0..ty.vlen)
            .map(|index| index * words)
            .find(|&index| self.raw.word(ty, index).is_some_and(|offset| self.raw.name_is(offset, name)))?;
        self.enumerator_at(ty, index)
    }

    /// The number of the enumerator at this word.
    fn enumerator_at(&self, ty: &Type, index: usize) -> Option<u64> {
        let low = self.raw.word(ty, index + 1)?;
        match ty.kind {
            Kind::Enum64 => Some(u64::from(low) | (u64::from(self.raw.word(ty, index + 2)?) << 32)),
            _ if ty.flag => Some(i64::from(low.cast_signed()).cast_unsigned()),
            _ => Some(u64::from(low)),
        }
    }

    /// The type behind typedefs and qualifiers.
    fn strip(&self, mut id: u32) -> Option<Type> {
        for _ in 0..CHAIN_MAX {
            let ty = self.raw.get(id)?;
            if !ty.kind.is_alias() {
                return Some(ty);
            }
            id = ty.size_or_id;
        }
        None
    }

    /// The struct or union that a member is, or that it is an array of.
    fn container(&self, mut id: u32) -> Option<Type> {
        for _ in 0..CHAIN_MAX {
            let ty = self.strip(id)?;
            match ty.kind {
                Kind::Struct | Kind::Union => return Some(ty),
                Kind::Array => id = self.raw.array(&ty)?.0,
                _ => return None,
            }
        }
        None
    }

    fn size(&self, mut id: u32) -> Option<u32> {
        let mut count: u32 = 1;
        for _ in 0..CHAIN_MAX {
            let ty = self.strip(id)?;
            let bytes = match ty.kind {
                Kind::Array => {
                    let (element, len) = self.raw.array(&ty)?;
                    count = count.checked_mul(len)?;
                    id = element;
                    continue;
                }
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => ty.size_or_id,
                // The agent runs on the kernel it asks about, so their pointers are alike.
                Kind::Ptr => u32::try_from(size_of::<usize>()).ok()?,
                _ => return None,
            };
            return count.checked_mul(bytes);
        }
        None
    }

    /// A type as C would write it, pointers to functions and arrays abridged.
    fn spell(&self, mut id: u32) -> String {
        let mut stars = String::new();
        let mut prefix = "";
        for _ in 0..CHAIN_MAX {
            let Some(ty) = self.raw.get(id) else {
                return format!("{prefix}void {stars}").trim_end().to_owned();
            };
            let keyword = match ty.kind {
                Kind::Ptr => {
                    stars.push('*');
                    id = ty.size_or_id;
                    continue;
                }
                Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                    if ty.kind == Kind::Const && prefix.is_empty() {
                        prefix = "const ";
                    }
                    id = ty.size_or_id;
                    continue;
                }
                Kind::Struct | Kind::Fwd => "struct ",
                Kind::Union => "union ",
                Kind::Enum | Kind::Enum64 => "enum ",
                Kind::FuncProto => "(function)",
                _ => "",
            };
            return format!("{prefix}{keyword}{} {stars}", self.raw.name(ty.name)).trim_end().to_owned();
        }
        "?".to_owned()
    }
}

/// Words that describe one enumerator: its name, and its number in one or two halves.
fn enumerator_words(ty: &Type) -> usize {
    if ty.kind == Kind::Enum64 { 3 } else { 2 }
}
