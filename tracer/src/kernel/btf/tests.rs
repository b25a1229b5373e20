//! The reader against BTF built here byte by byte, against damaged BTF, and against another reader
//! on the running kernel's own.

use proptest::prelude::*;
use tracer_ebpf::settings::Offsets;

use super::{Btf, BtfError, Member, VMLINUX, raw::Kind};

/// Builds BTF; types are numbered from one in the order of their creation.
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    last_id: u32,
}

impl Builder {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], last_id: 0 }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = self.strings.len().try_into().unwrap();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        offset
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    /// A type; `vlen` and flag go into `info`, `rest` are the words after the record.
    fn add(&mut self, kind: Kind, name: &str, (vlen, flag): (u32, bool), size_or_id: u32, rest: &[u32]) -> u32 {
        let name = self.name(name);
        let info = vlen | ((kind as u32) << 24) | (u32::from(flag) << 31);
        self.words(&[name, info, size_or_id]);
        self.words(rest);
        self.last_id += 1;
        self.last_id
    }

    fn plain(&mut self, kind: Kind, name: &str, to: u32) -> u32 {
        self.add(kind, name, (0, false), to, &[])
    }

    fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(Kind::Int, name, (0, false), size, &[size * 8])
    }

    fn array(&mut self, element: u32, len: u32) -> u32 {
        self.add(Kind::Array, "", (0, false), 0, &[element, element, len])
    }

    /// Members are name, type, offset in bits, width of a bit-field.
    fn composite(&mut self, kind: Kind, name: &str, size: u32, members: &[(&str, u32, u32, u32)]) -> u32 {
        let flag = members.iter().any(|member| member.3 != 0);
        let words: Vec<u32> =
            members.iter().flat_map(|&(name, ty, bits, width)| [self.name(name), ty, bits | (width << 24)]).collect();
        self.add(kind, name, (members.len().try_into().unwrap(), flag), size, &words)
    }

    fn proto(&mut self, parameters: &[u32]) -> u32 {
        let words: Vec<u32> = parameters.iter().flat_map(|&ty| [0, ty]).collect();
        self.add(Kind::FuncProto, "", (parameters.len().try_into().unwrap(), false), 0, &words)
    }

    fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len().try_into().unwrap(), self.strings.len().try_into().unwrap());
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24_u32, 0, types, types, strings] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }

    fn parse(&self) -> Btf {
        Btf::parse(self.bytes()).unwrap()
    }
}

fn at(offset: u32, size: u32) -> Member {
    Member { offset, bit: 0, bits: 0, size, is_pointer: false }
}

/// A file with at least one type of every kind.
fn every_kind() -> Builder {
    let mut b = Builder::new();
    let word = b.int("unsigned int", 4);
    let byte = b.int("unsigned char", 1);
    let pointer = b.plain(Kind::Ptr, "", word);
    let bytes = b.array(byte, 16);
    let matrix = b.array(bytes, 3);
    b.plain(Kind::Fwd, "outer", 0);
    let inner = b.composite(Kind::Struct, "inner", 8, &[("a", word, 0, 0), ("b", word, 32, 0)]);
    let alias = b.plain(Kind::Typedef, "inner_t", inner);
    let constant = b.plain(Kind::Const, "", alias);
    let volatile = b.plain(Kind::Volatile, "", constant);
    let restrict = b.plain(Kind::Restrict, "", pointer);
    let tagged = b.plain(Kind::TypeTag, "rcu", word);
    let tagged_pointer = b.plain(Kind::Ptr, "", tagged);
    let inners = b.array(inner, 4);
    let bits = b.composite(Kind::Struct, "", 4, &[("low", word, 0, 3), ("high", word, 11, 7), ("plain", byte, 24, 0)]);
    let union_ = b.composite(Kind::Union, "", 8, &[("as_inner", inner, 0, 0), ("", bits, 0, 0)]);
    b.composite(
        Kind::Struct,
        "outer",
        128,
        &[
            ("qualified", volatile, 0, 0),
            ("", union_, 64, 0),
            ("ptr", restrict, 128, 0),
            ("tagged", tagged_pointer, 192, 0),
            ("name", bytes, 256, 0),
            ("matrix", matrix, 384, 0),
            ("inners", inners, 768, 0),
        ],
    );
    let names = [b.name("MINUS"), b.name("PLUS"), b.name("HUGE")];
    b.add(Kind::Enum, "signed", (2, true), 4, &[names[0], u32::MAX, names[1], 7]);
    b.add(Kind::Enum, "unsigned", (1, false), 4, &[names[1], u32::MAX]);
    b.add(Kind::Enum64, "wide", (2, false), 8, &[names[1], 1, 0, names[2], 2, 3]);
    let callback = b.proto(&[]);
    let callback = b.plain(Kind::Ptr, "", callback);
    let proto = b.proto(&[pointer, byte, volatile, callback]);
    b.add(Kind::Func, "do_it", (1, false), proto, &[]);
    let void_pointer = b.plain(Kind::Ptr, "", 0);
    let traced = b.proto(&[void_pointer, pointer, pointer, word]);
    let traced = b.plain(Kind::Ptr, "", traced);
    b.plain(Kind::Typedef, "btf_trace_it", traced);
    let variable = b.add(Kind::Var, "jiffies", (0, false), word, &[1]);
    b.add(Kind::Datasec, ".data", (1, false), 8, &[variable, 0, 8]);
    b.plain(Kind::Float, "double", 8);
    b.add(Kind::DeclTag, "kfunc", (0, false), word, &[u32::MAX]);
    b
}

#[test]
fn the_synthetic_file_holds_every_kind() {
    let raw = every_kind().parse().raw;
    let present: Vec<Kind> = raw.ids().map(|id| raw.get(id).unwrap().kind).collect();
    for kind in Kind::ALL {
        assert!(present.contains(&kind), "{kind:?} is missing");
    }
}

#[test]
fn members_resolve_through_what_wraps_them() {
    let btf = every_kind().parse();
    assert_eq!(btf.member("inner.b"), Some(at(4, 4)));
    assert_eq!(btf.member("outer.qualified.b"), Some(at(4, 4)));
    assert_eq!(btf.member("outer.qualified"), Some(at(0, 8)));
    assert_eq!(btf.member("outer.as_inner.b"), Some(at(12, 4)), "through an anonymous union");
    assert_eq!(btf.member("outer.name"), Some(at(32, 16)));
    assert_eq!(btf.member("outer.matrix"), Some(at(48, 48)), "an array of arrays");
    assert_eq!(btf.member("outer.inners.b"), Some(at(100, 4)), "the first element of an array");
    let pointer = Member { is_pointer: true, ..at(16, 8) };
    assert_eq!(btf.member("outer.ptr"), Some(pointer));
    assert_eq!(btf.member("outer.tagged"), Some(Member { offset: 24, ..pointer }));
}

#[test]
fn bit_fields_name_the_byte_of_their_first_bit() {
    let btf = every_kind().parse();
    let low = Member { offset: 8, bit: 0, bits: 3, size: 4, is_pointer: false };
    assert_eq!(btf.member("outer.low"), Some(low));
    assert_eq!(btf.member("outer.high"), Some(Member { offset: 9, bit: 3, bits: 7, ..low }));
    assert_eq!(btf.member("outer.plain"), Some(at(11, 1)));
}

#[test]
fn paths_that_lead_nowhere_resolve_to_nothing() {
    let btf = every_kind().parse();
    for path in [
        "",
        "outer",
        "outer.",
        "outer.nope",
        "nope.a",
        "inner.a.b",
        "outer.ptr.a",
        "inner_t.a",
        ".",
        "outer.nam",
        "outer.names",
    ] {
        assert_eq!(btf.member(path), None, "{path}");
    }
}

#[test]
fn of_two_structs_with_one_name_the_one_with_the_member_answers() {
    let mut b = Builder::new();
    let word = b.int("int", 4);
    b.composite(Kind::Struct, "twin", 4, &[("x", word, 0, 0)]);
    b.composite(Kind::Struct, "twin", 8, &[("x", word, 32, 0), ("y", word, 0, 0)]);
    let btf = b.parse();
    assert_eq!((btf.member("twin.x"), btf.member("twin.y")), (Some(at(0, 4)), Some(at(0, 4))));
}

#[test]
fn functions_tracepoints_and_enumerators() {
    let btf = every_kind().parse();
    assert!(btf.has_func("do_it") && !btf.has_func("do_i"));
    assert_eq!((btf.func_args("do_it"), btf.func_args("jiffies")), (Some(4), None));
    assert_eq!(
        btf.func_prototype("do_it").unwrap(),
        "do_it(unsigned int *, unsigned char, const inner_t, (function) *)"
    );
    assert_eq!((btf.tracepoint_args("it"), btf.tracepoint_args("that")), (Some(3), None));
    assert_eq!(btf.enum_value("signed", "MINUS"), Some(u64::MAX));
    assert_eq!(btf.enum_value("signed", "PLUS"), Some(7));
    assert_eq!(btf.enum_value("unsigned", "PLUS"), Some(u64::from(u32::MAX)));
    assert_eq!(btf.enum_value("wide", "HUGE"), Some(3 << 32 | 2));
    assert_eq!((btf.enum_value("wide", "MINUS"), btf.enum_value("inner", "a")), (None, None));
    assert_eq!(btf.enumerators("signed"), [("MINUS", u64::MAX), ("PLUS", 7)]);
    assert_eq!(btf.enumerators("wide"), [("PLUS", 1), ("HUGE", 3 << 32 | 2)]);
    assert!(btf.enumerators("inner").is_empty());
}

#[test]
fn types_that_contain_themselves_end() {
    let mut b = Builder::new();
    b.composite(Kind::Struct, "loop", 8, &[("", 1, 0, 0), ("", 1, 0, 0), ("deeper", 2, 0, 0)]);
    b.plain(Kind::Typedef, "again", 2);
    b.array(3, 2);
    b.composite(Kind::Struct, "arrays", 8, &[("deeper", 3, 0, 0)]);
    let btf = b.parse();
    assert_eq!(btf.member("loop.nope"), None);
    assert_eq!(btf.member("loop.deeper"), Some(at(0, 0)), "a typedef of itself has no size");
    assert_eq!(btf.member("arrays.deeper"), Some(at(0, 0)));
    assert_eq!(btf.member("arrays.deeper.deeper"), None);
}

/// What parsing says about `bytes` after `patch`.
fn error(patch: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = every_kind().bytes();
    patch(&mut bytes);
    Btf::parse(bytes).unwrap_err().to_string()
}

#[test]
fn each_fault_is_named() {
    assert_eq!(error(Vec::clear), "BTF ends too early, at byte 0");
    assert_eq!(error(|bytes| bytes.truncate(10)), "BTF ends too early, at byte 8");
    assert!(error(|bytes| bytes.truncate(400)).starts_with("BTF ends too early"), "a section beyond the end");
    assert_eq!(
        error(|bytes| bytes[..2].copy_from_slice(b"\x7fE")),
        format!("not BTF: it starts with {:#06x}", u16::from_ne_bytes(*b"\x7fE"))
    );
    assert_eq!(error(|bytes| bytes.swap(0, 1)), "BTF of the other byte order");
    assert_eq!(error(|bytes| bytes[2] = 9), "BTF version 9 is not known");
    assert_eq!(error(|bytes| bytes[4] = 8), "malformed BTF at byte 4: the header is too short");
    assert_eq!(
        error(|bytes| bytes[28..32].copy_from_slice(&(31_u32 << 24).to_ne_bytes())),
        "BTF type of unknown kind 31 at byte 24"
    );
    assert_eq!(
        error(|bytes| bytes[28..32].copy_from_slice(&0_u32.to_ne_bytes())),
        "BTF type of unknown kind 0 at byte 24"
    );
    // The first type becomes a struct whose members fill more than the section.
    let huge = (4_u32 << 24) | 0xffff;
    assert_eq!(error(|bytes| bytes[28..32].copy_from_slice(&huge.to_ne_bytes())), "BTF ends too early, at byte 24");
    assert!(BtfError::NotFound.to_string().ends_with("it must be built with CONFIG_DEBUG_INFO_BTF=y"));
}

#[test]
fn a_longer_header_is_skipped() {
    let mut bytes = every_kind().bytes();
    bytes[4..8].copy_from_slice(&32_u32.to_ne_bytes());
    bytes.splice(24..24, [0xaa; 8]);
    assert_eq!(Btf::parse(bytes).unwrap().member("inner.b"), Some(at(4, 4)));
}

/// Every question once; the answers do not matter, only that they come.
fn ask_everything(btf: &Btf) -> String {
    let paths = ["outer.qualified.b", "outer.as_inner.b", "outer.high", "outer.inners.b", "inner.b", "outer.matrix"];
    let members = paths.map(|path| btf.member(path));
    let text = btf.func_prototype("do_it");
    format!("{members:?} {text:?} {:?} {:?}", btf.tracepoint_args("it"), btf.enum_value("wide", "HUGE"))
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let mut with_header = every_kind().bytes()[..24].to_vec();
        with_header.extend(&bytes);
        for bytes in [bytes, with_header] {
            if let Ok(btf) = Btf::parse(bytes) {
                ask_everything(&btf);
            }
        }
    }

    #[test]
    fn damaged_files_never_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        keep in any::<Option<prop::sample::Index>>(),
    ) {
        let mut bytes = every_kind().bytes();
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(btf) = Btf::parse(bytes) {
            ask_everything(&btf);
        }
    }
}

/// Rows of [`Offsets::PATHS`] that the development machine's kernel (6.18) does not have.
const ABSENT_ON_6_18: [&str; 2] = [
    // Replaced by `tw_refcount` in 6.1.
    "tw_count",
    // Replaced by `file_ref` in 6.13.
    "file_count",
];

#[test]
fn the_running_kernel_agrees_with_another_reader() {
    let btf = Btf::from_sys_fs().unwrap();
    let other = btf_rs::Btf::from_file(VMLINUX).unwrap();
    let mut compared = 0;
    for path in Offsets::PATHS.iter().flat_map(|(_, paths)| *paths) {
        assert_eq!(btf.member(path).map(|member| member.offset), oracle::offset(&other, path), "{path}");
    }
    for name in
        ["sock_common", "sock", "inet_connection_sock", "tcp_sock", "sk_buff", "netns_ipv4", "task_struct", "file"]
    {
        for path in oracle::paths(&other, name) {
            let expected = oracle::offset(&other, &path);
            assert!(expected.is_some(), "the oracle loses its own {path}");
            assert_eq!(btf.member(&path).map(|member| member.offset), expected, "{path}");
            compared += 1;
        }
    }
    assert!(compared > 500, "only {compared} members compared");
}

#[test]
fn the_running_kernel_has_every_field_the_programs_read() {
    let btf = Btf::from_sys_fs().unwrap();
    let absent: Vec<&str> = Offsets::PATHS
        .iter()
        .filter(|(_, paths)| paths.iter().all(|path| btf.member(path).is_none()))
        .map(|(name, _)| *name)
        .collect();
    let unexpected: Vec<_> = absent.iter().filter(|name| !ABSENT_ON_6_18.contains(name)).collect();
    assert!(unexpected.is_empty(), "not found on this kernel: {unexpected:?}");
}

#[test]
fn the_running_kernel_knows_functions_tracepoints_and_reasons() {
    let btf = Btf::from_sys_fs().unwrap();
    let other = btf_rs::Btf::from_file(VMLINUX).unwrap();
    assert_eq!(btf.tracepoint_args("inet_sock_set_state"), Some(3));
    assert_eq!(btf.func_args("tcp_conn_request"), Some(4));
    for func in ["tcp_v4_syn_recv_sock", "inet_twsk_alloc", "tcp_v6_send_synack", "kfree_skb_reason"] {
        assert_eq!(btf.func_args(func), oracle::func_args(&other, func), "{func}");
    }
    assert_eq!(
        btf.func_prototype("inet_twsk_alloc").as_deref(),
        Some("inet_twsk_alloc(const struct sock *, struct inet_timewait_death_row *, const int)"),
    );
    assert_eq!(btf.enum_value("skb_drop_reason", "SKB_CONSUMED"), Some(1));
}

/// The same questions put to another implementation. It shares no code with ours: it decodes the
/// file itself, and anonymous members are searched depth first instead of by a work list.
mod oracle {
    use btf_rs::{Btf, Type};

    pub(super) fn offset(btf: &Btf, path: &str) -> Option<u32> {
        let (outer, members) = path.split_once('.')?;
        btf.resolve_types_by_name(outer).ok()?.into_iter().find_map(|mut ty| {
            let mut bits = 0;
            for name in members.split('.') {
                let (inner, offset) = member(btf, &ty, name)?;
                bits += offset;
                ty = inner;
            }
            Some(bits / 8)
        })
    }

    /// `name.member` for each named direct member.
    pub(super) fn paths(btf: &Btf, name: &str) -> Vec<String> {
        let types = btf.resolve_types_by_name(name).unwrap();
        let composite =
            types.iter().find_map(|ty| if let Type::Struct(composite) = ty { Some(composite) } else { None });
        let names = composite.unwrap().members.iter().map(|member| btf.resolve_name(member).unwrap());
        names.filter(|member| !member.is_empty()).map(|member| format!("{name}.{member}")).collect()
    }

    pub(super) fn func_args(btf: &Btf, name: &str) -> Option<usize> {
        btf.resolve_types_by_name(name).ok()?.into_iter().find_map(|ty| {
            let Type::Func(func) = ty else { return None };
            let Type::FuncProto(proto) = btf.resolve_chained_type(&func).ok()? else {
                return None;
            };
            Some(proto.parameters.len())
        })
    }

    fn member(btf: &Btf, ty: &Type, name: &str) -> Option<(Type, u32)> {
        let (Type::Struct(composite) | Type::Union(composite)) = ty else {
            return None;
        };
        composite.members.iter().find_map(|member_| {
            let inner = strip(btf, btf.resolve_chained_type(member_).ok()?);
            match btf.resolve_name(member_).ok()?.as_str() {
                found if found == name => Some((inner, member_.bit_offset())),
                "" => member(btf, &inner, name).map(|(found, offset)| (found, offset + member_.bit_offset())),
                _ => None,
            }
        })
    }

    fn strip(btf: &Btf, ty: Type) -> Type {
        match &ty {
            Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::Restrict(_) | Type::TypeTag(_) => {
                strip(btf, btf.resolve_chained_type(ty.as_btf_type().unwrap()).unwrap())
            }
            _ => ty,
        }
    }
}
