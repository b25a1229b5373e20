//! The types of a kernel out of the image that it boots from.
//!
//! An x86-64 image (`bzImage`) carries the kernel's ELF file compressed; the boot protocol's header
//! says where. The programs that decompress it and `bpftool`, which reads the ELF file's types, are
//! Debian's. Gives back bpftool's JSON; leaves nothing behind.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, command};
use crate::workspace;

/// Where the boot protocol keeps what is needed here, in bytes from the start of the image.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const SECTOR: usize = 512;

/// How a payload may be compressed.
struct Format {
    magic: &'static [u8],
    /// Decompresses its input to its output when told `-dc`.
    program: &'static str,
    /// Whether the size is a part of the format; for all others the kernel's build appends it.
    holds_size: bool,
}

const FORMATS: &[Format] = &[
    Format { magic: &[0x28, 0xb5, 0x2f, 0xfd], program: "zstd", holds_size: false },
    Format { magic: &[0x02, 0x21, 0x4c, 0x18], program: "lz4", holds_size: false },
    Format { magic: &[0xfd, 0x37, 0x7a, 0x58], program: "xz", holds_size: false },
    Format { magic: &[0x1f, 0x8b], program: "gzip", holds_size: true },
];

/// The compressed kernel inside an image.
struct Payload<'a> {
    bytes: &'a [u8],
    program: &'static str,
    /// Of the kernel when decompressed, in bytes.
    size: u32,
}

/// What `bpftool -j btf dump` says of the image's kernel.
pub(super) fn types(vmlinuz: &Path) -> Result<String> {
    let image = fs::read(vmlinuz).with_context(|| format!("reading {}", vmlinuz.display()))?;
    let payload = payload(&image).with_context(|| format!("{} as a kernel image", vmlinuz.display()))?;
    let directory = tempfile::tempdir_in(workspace::root().join("target")).context("making a directory")?;
    let kernel = directory.path().join("vmlinux");
    decompress(&payload, &directory.path().join("payload"), &kernel)?;
    dump(&kernel).with_context(|| format!("the types of {}", vmlinuz.display()))
}

fn payload(image: &[u8]) -> Result<Payload<'_>> {
    if image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        bail!("it has no x86 boot header; other architectures' images are not read");
    }
    // Old images have four sectors and say zero.
    let sectors = match image[SETUP_SECTORS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + usize::try_from(word(image, PAYLOAD_OFFSET)?)?;
    let length = usize::try_from(word(image, PAYLOAD_LENGTH)?)?;
    let bytes =
        start.checked_add(length).and_then(|end| image.get(start..end)).context("it ends before its payload")?;
    let Some(format) = FORMATS.iter().find(|format| bytes.starts_with(format.magic)) else {
        bail!("its payload is compressed in a way that is not known here (it starts with {:02x?})", head(bytes));
    };
    let trailer = bytes.len().checked_sub(4).context("its payload is too short")?;
    let compressed = if format.holds_size { bytes } else { &bytes[..trailer] };
    Ok(Payload { bytes: compressed, program: format.program, size: word(bytes, trailer)? })
}

fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(4)]
}

/// The little-endian number at this place.
fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).context("it is too short")?;
    Ok(u32::from_le_bytes(*word))
}

/// Through files, since the payload and the kernel are larger than any pipe.
fn decompress(payload: &Payload, compressed: &Path, kernel: &Path) -> Result<()> {
    fs::write(compressed, payload.bytes).with_context(|| format!("writing {}", compressed.display()))?;
    let output = File::create(kernel).with_context(|| format!("creating {}", kernel.display()))?;
    process::run(command(payload.program).arg("-dc").stdin(File::open(compressed)?).stdout(output))?;
    let size = fs::metadata(kernel)?.len();
    if size != u64::from(payload.size) {
        bail!("`{}` gave {size} bytes, and the image says {}", payload.program, payload.size);
    }
    Ok(())
}

fn dump(kernel: &Path) -> Result<String> {
    // In a directory that is on the PATH of root alone.
    let bpftool = process::find("bpftool").context("bpftool is not installed")?;
    process::capture(command(bpftool).args(["-j", "btf", "dump", "file"]).arg(kernel).stdin(Stdio::null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with two sectors of set-up and a payload 16 bytes into what follows.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR + 16];
        image[SETUP_SECTORS] = 2;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH] = u8::try_from(payload.len()).unwrap();
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows");
        image
    }

    #[test]
    fn the_size_behind_the_payload_is_taken_off() {
        let image = image(b"\x28\xb5\x2f\xfdkernel\x01\x02\0\0");
        let payload = payload(&image).unwrap();
        assert_eq!((payload.program, payload.bytes, payload.size), ("zstd", &b"\x28\xb5\x2f\xfdkernel"[..], 0x201));
    }

    #[test]
    fn gzip_keeps_its_own_size() {
        let image = image(b"\x1f\x8bkernel\x05\0\0\0");
        let payload = payload(&image).unwrap();
        assert_eq!((payload.program, payload.bytes, payload.size), ("gzip", &b"\x1f\x8bkernel\x05\0\0\0"[..], 5));
    }

    #[test]
    fn each_format_is_known_by_its_start() {
        for (magic, program) in [("\x02\x21\x4c\x18", "lz4"), ("\u{fd}7zX", "xz")] {
            let magic: Vec<u8> = magic.chars().map(|c| u8::try_from(c).unwrap()).collect();
            let image = image(&[&magic[..], &[0; 8]].concat());
            assert_eq!(payload(&image).unwrap().program, program);
        }
    }

    #[test]
    fn no_sectors_are_four() {
        let mut image = image(b"");
        image[SETUP_SECTORS] = 0;
        image.resize(5 * SECTOR + 16, 0);
        image.extend_from_slice(b"\x28\xb5\x2f\xfd\x07\0\0\0");
        image[PAYLOAD_LENGTH] = 8;
        assert_eq!(payload(&image).unwrap().size, 7);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(payload(b"\x7fELF").is_err());
        assert!(payload(&image(b"BZh91AY&SYkernel")).is_err(), "bzip2");
        assert!(payload(&image(b"")).is_err());
        let mut cut = image(b"\x28\xb5\x2f\xfdkernel\x01\0\0\0");
        cut.truncate(3 * SECTOR + 20);
        assert!(payload(&cut).is_err());
    }

    #[test]
    fn a_kernel_of_another_size_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (compressed, kernel) = (directory.path().join("payload"), directory.path().join("vmlinux"));
        // `cat -dc` is no decompression; gzip is on every Debian system.
        let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\xcb\xcf\x07\0\x21\x65\x73\x8c\x03\0\0\0";
        let payload = |size| Payload { bytes: gzip, program: "gzip", size };
        assert!(decompress(&payload(3), &compressed, &kernel).is_ok());
        assert_eq!(fs::read(&kernel).unwrap(), b"foo");
        assert!(decompress(&payload(4), &compressed, &kernel).is_err());
    }
}
