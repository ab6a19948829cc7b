//! The file of a segment: a head, then arrays of plain numbers with nothing between them.
//!
//! ```text
//! magic (8) │ number of sections (u64) │ for each section: bytes (u64), XXH3-64 (u64) │ sections …
//! ```
//!
//! All numbers are little-endian. The manifest holds the hash of the head and the head those of the sections, so each
//! byte of the file is covered; a reader gets no number before its section's hash was found right.

use std::io;

use bytemuck::{NoUninit, Pod};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

#[cfg(target_endian = "big")]
compile_error!("snapshots are written as the numbers stand in memory, which must be little-endian");

const MAGIC: [u8; 8] = *b"TERTSEG1";
/// More than a segment has, so that a damaged head cannot make a reader allocate much.
const SECTIONS_MAX: u64 = 256;

/// Why a file cannot be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// It cannot be read.
    Io(io::Error),
    /// What it holds is not what was written.
    Damaged(&'static str),
}

/// Collects the sections of a file.
#[derive(Default)]
pub(crate) struct SectionWriter<'a> {
    sections: Vec<&'a [u8]>,
}

/// What names a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    /// XXH3-128 of the head.
    pub(crate) hash: u128,
    /// Size of the file.
    pub(crate) bytes: u64,
}

impl<'a> SectionWriter<'a> {
    /// Adds a section.
    pub(crate) fn put<T: NoUninit>(&mut self, numbers: &'a [T]) {
        self.sections.push(bytemuck::cast_slice(numbers));
    }

    /// What was put.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn sections(&self) -> &[&'a [u8]] {
        &self.sections
    }

    /// The head and the seal of what was put. Reads all of it.
    pub(crate) fn head(&self) -> (Vec<u8>, Seal) {
        let mut head = MAGIC.to_vec();
        head.extend((self.sections.len() as u64).to_le_bytes());
        let mut bytes = 0;
        for section in &self.sections {
            head.extend((section.len() as u64).to_le_bytes());
            head.extend(xxh3_64(section).to_le_bytes());
            bytes += section.len() as u64;
        }
        let seal = Seal { hash: xxh3_128(&head), bytes: bytes + head.len() as u64 };
        (head, seal)
    }

    /// Writes head and sections.
    pub(crate) fn write_to(&self, head: &[u8], out: &mut impl io::Write) -> io::Result<()> {
        out.write_all(head)?;
        self.sections.iter().try_for_each(|section| out.write_all(section))
    }
}

/// Gives the sections of a file in the order in which they were put.
pub(crate) struct SectionReader<'a> {
    file: &'a mut dyn io::Read,
    /// Bytes and hash of the sections not yet taken, the next one last.
    rest: Vec<(u64, u64)>,
}

impl<'a> SectionReader<'a> {
    /// Reads and checks the head of `file`, which has `seal.bytes` bytes.
    pub(crate) fn open(file: &'a mut dyn io::Read, seal: Seal) -> Result<Self, LoadError> {
        let mut head = vec![0; 16];
        read_exact(file, &mut head)?;
        let count = le_u64(&head[8..]);
        if head[..8] != MAGIC || count > SECTIONS_MAX {
            return Err(LoadError::Damaged("not a segment"));
        }
        head.resize(16 + 16 * count as usize, 0);
        read_exact(file, &mut head[16..])?;
        if xxh3_128(&head) != seal.hash {
            return Err(LoadError::Damaged("the head has another checksum"));
        }
        let mut rest: Vec<_> = head[16..].chunks_exact(16).map(|pair| (le_u64(pair), le_u64(&pair[8..]))).collect();
        let bytes = rest.iter().try_fold(head.len() as u64, |sum, (bytes, _)| sum.checked_add(*bytes));
        if bytes != Some(seal.bytes) {
            return Err(LoadError::Damaged("the sections have another size than the file"));
        }
        rest.reverse();
        Ok(Self { file, rest })
    }

    /// The next section.
    pub(crate) fn take<T: Pod>(&mut self) -> Result<Vec<T>, LoadError> {
        let (bytes, hash) = self.rest.pop().ok_or(LoadError::Damaged("a section is missing"))?;
        let bytes = usize::try_from(bytes).map_err(|_| LoadError::Damaged("larger than memory"))?;
        if bytes % size_of::<T>() != 0 {
            return Err(LoadError::Damaged("a section has another size than its numbers"));
        }
        let mut numbers = vec![T::zeroed(); bytes / size_of::<T>()];
        read_exact(self.file, bytemuck::cast_slice_mut(&mut numbers))?;
        if xxh3_64(bytemuck::cast_slice(&numbers)) != hash {
            return Err(LoadError::Damaged("a section has another checksum"));
        }
        Ok(numbers)
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(self) -> Result<(), LoadError> {
        if self.rest.is_empty() { Ok(()) } else { Err(LoadError::Damaged("there are more sections than known")) }
    }
}

fn le_u64(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(number)
}

fn read_exact(file: &mut dyn io::Read, bytes: &mut [u8]) -> Result<(), LoadError> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LoadError::Damaged("cut short"),
        _ => LoadError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(out: &SectionWriter<'_>) -> (Vec<u8>, Seal) {
        let (head, seal) = out.head();
        let mut file = Vec::new();
        out.write_to(&head, &mut file).expect("writes to memory");
        assert_eq!(file.len() as u64, seal.bytes);
        (file, seal)
    }

    type Sections = (Vec<u32>, Vec<u8>, Vec<f32>);

    fn read(mut file: &[u8], seal: Seal) -> Result<Sections, LoadError> {
        let mut from = SectionReader::open(&mut file, seal)?;
        let read = (from.take()?, from.take()?, from.take()?);
        from.finish()?;
        Ok(read)
    }

    #[test]
    fn sections_come_back_in_order_at_any_alignment() {
        let mut out = SectionWriter::default();
        out.put(&[1_u32, 2, 3]);
        out.put(b"odd");
        out.put(&[0.5_f32]);
        let (file, seal) = written(&out);
        assert_eq!(read(&file, seal).expect("sound"), (vec![1, 2, 3], b"odd".to_vec(), vec![0.5]));
    }

    #[test]
    fn each_flipped_byte_and_each_cut_is_noticed() {
        let mut out = SectionWriter::default();
        out.put(&[7_u32; 3]);
        out.put(b"");
        out.put(&[1.0_f32, 2.0]);
        let (file, seal) = written(&out);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x40;
            assert!(read(&damaged, seal).is_err(), "byte {at} flipped");
            assert!(read(&file[..at], seal).is_err(), "cut to {at} bytes");
        }
    }

    #[test]
    fn another_number_of_sections_is_noticed() {
        let mut out = SectionWriter::default();
        out.put(&[7_u32]);
        let (file, seal) = written(&out);
        assert!(read(&file, seal).is_err());
        let mut file = file.as_slice();
        let from = SectionReader::open(&mut file, seal).expect("a sound head");
        assert!(from.finish().is_err());
    }
}
