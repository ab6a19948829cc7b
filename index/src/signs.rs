//! Sign codes of vectors, and estimates of scores from them: 1 bit a component, so that a scan reads an eighth of what 8-bit
//! codes take.
//!
//! This is RaBitQ (Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound", SIGMOD 2024,
//! arXiv:2405.12497). A row `v` is taken relative to the rows' mean `c` and rotated at random; of `o`, its direction, the
//! signs are kept as `x`, with all components ±1/√D. For a query `q` rotated alike, `<x, q> / <x, o>` estimates `<o, q>` without
//! bias, and its error is spread about as `√((1 - <x, o>²) / <x, o>²) / √(D - 1)`. So
//! `q·v = q·c + |v - c|·<o, q>` is at most the estimate and [`ERROR_MARGIN`] times that, for all but one row in 80:
//! not for certain, as the bound of 8-bit codes is.

use crate::kernels::BLOCK;
use crate::kernels::signs::{ENTRY_MAX, SignQuery, SignScales, TABLES_MAX, Table, estimate, place_in_block};
use crate::sections::{LoadError, SectionReader, SectionWriter};

/// By how many times its usual error an estimate is raised. Errors are spread about normally, so that one row in 80 is above
/// its bound; and only those that would be among the last of the list are missed for it: with 55,880 chunks recall@10 is 0.9986
/// (`make bench-vectors`, 2026-11-29). With 3.0 it was 1.0000, and half as many rows again were left in question.
const ERROR_MARGIN: f32 = 2.25;
/// Rotations by random signs and a Hadamard transform: after one, a row with few components that are not zero is still easy to
/// tell from others, after two no longer.
const ROTATIONS: usize = 2;
/// Components are padded with zeros to a multiple of this.
const PADDING: usize = 16;

/// The sign codes of a segment's rows.
#[derive(Debug)]
pub(crate) struct Signs {
    dimensions: usize,
    /// For each [`BLOCK`] of rows `[padded dimensions / 8][BLOCK]`; see [`estimate`].
    codes: Vec<u8>,
    scales: SignScales,
    /// The rows' mean.
    mean: Vec<f32>,
}

/// A query's tables, kept for the next.
#[derive(Debug, Default)]
pub(crate) struct SignScratch {
    rotated: Vec<f32>,
    tables: Vec<Table>,
}

impl Signs {
    /// Whether vectors of so many components can have sign codes, and estimates from them would be worth something.
    pub(crate) fn suit(dimensions: usize) -> bool {
        (64..=TABLES_MAX * 4).contains(&dimensions)
    }

    /// Codes of `len` rows, all finite, which `read` writes. About 2 µs a row of 256.
    pub(crate) fn build(dimensions: usize, len: usize, read: impl Fn(u32, &mut [f32])) -> Self {
        let mut sums = vec![0.0_f64; dimensions];
        let mut rotated = vec![0.0_f32; dimensions];
        for doc in 0..len {
            read(doc as u32, &mut rotated);
            sums.iter_mut().zip(&rotated).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let mean: Vec<f32> = sums.into_iter().map(|sum| (sum / len.max(1) as f64) as f32).collect();
        let bytes = dimensions.next_multiple_of(PADDING) / 8;
        let mut codes = vec![0_u8; len.next_multiple_of(BLOCK) * bytes];
        let mut scales = SignScales { scales: Vec::with_capacity(len), errors: Vec::with_capacity(len) };
        let rotation = Rotation::new(dimensions);
        for at in 0..len {
            read(at as u32, &mut rotated);
            rotated.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
            rotation.apply(&mut rotated);
            let codes = &mut codes[at / BLOCK * BLOCK * bytes..];
            for (byte, values) in rotated.chunks(8).enumerate() {
                let code = values.iter().enumerate().fold(0, |code, (bit, value)| code | u8::from(*value > 0.0) << bit);
                codes[byte * BLOCK + place_in_block(at % BLOCK)] = code;
            }
            let (scale, error) = scale_and_error(&rotated);
            scales.scales.push(scale);
            scales.errors.push(error);
        }
        Self { dimensions, codes, scales, mean }
    }

    /// Bytes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        let floats = self.scales.scales.capacity() + self.scales.errors.capacity() + self.mean.capacity();
        self.codes.capacity() + floats * size_of::<f32>()
    }

    pub(crate) fn save<'a>(&'a self, out: &mut SectionWriter<'a>) {
        out.put(&self.codes);
        out.put(&self.scales.scales);
        out.put(&self.scales.errors);
        out.put(&self.mean);
    }

    /// Takes back what [`Signs::save`] put of `len` rows.
    pub(crate) fn load(from: &mut SectionReader<'_>, dimensions: usize, len: usize) -> Result<Self, LoadError> {
        let codes: Vec<u8> = from.take()?;
        let scales = SignScales { scales: from.take()?, errors: from.take()? };
        let mean: Vec<f32> = from.take()?;
        let bytes = len.next_multiple_of(BLOCK) * dimensions.next_multiple_of(PADDING) / 8;
        let lengths = [codes.len(), scales.scales.len(), scales.errors.len(), mean.len()];
        if lengths != [bytes, len, len, dimensions] {
            return Err(LoadError::Damaged("sign codes of another number of rows"));
        }
        Ok(Self { dimensions, codes, scales, mean })
    }

    /// Writes to `upper` for each row what its score with `query`, a vector of `length`, will hardly exceed, negative
    /// infinity for rows outside `keep`; and to `maxima` the highest of each [`BLOCK`] of rows.
    pub(crate) fn bounds(
        &self,
        query: &[f32],
        length: f32,
        scratch: &mut SignScratch,
        keep: Option<&[u64]>,
        upper: &mut [f32],
        maxima: &mut [f32],
    ) {
        let SignScratch { rotated, tables } = scratch;
        rotated.clear();
        rotated.extend(query);
        Rotation::new(self.dimensions).apply(rotated);
        let (step, base) = fill_tables(rotated, tables);
        let offset = query.iter().zip(&self.mean).map(|(value, mean)| value * mean).sum();
        let query = SignQuery { tables, step, base, margin: ERROR_MARGIN * length, offset };
        estimate(&self.codes, &self.scales, query, keep, upper, maxima);
    }
}

/// What a row's sum of signed query components is multiplied by, and how far off the product usually is from the row's
/// product with a query of length 1. `row` is relative to the mean.
fn scale_and_error(row: &[f32]) -> (f32, f32) {
    let dimensions = row.len() as f64;
    let (mut sum, mut squares) = (0.0_f64, 0.0_f64);
    for value in row {
        sum += f64::from(value.abs());
        squares += f64::from(*value).powi(2);
    }
    if squares < 1e-60 {
        return (0.0, 0.0);
    }
    let length = squares.sqrt();
    // <x, o>, from √(2/π) or so up to 1.
    let likeness = (sum / dimensions.sqrt() / length).min(1.0);
    let error = length * ((1.0 - likeness * likeness).max(0.0)).sqrt() / likeness / (dimensions - 1.0).sqrt();
    ((length / likeness / dimensions.sqrt()) as f32, error as f32)
}

/// Writes for each four components of `query` the sums that the patterns of signs give. Returns the value of a step of the
/// entries, and that of all entries 0. Steps are so small that their rounding does not show beside the error of the codes.
fn fill_tables(query: &[f32], tables: &mut Vec<Table>) -> (f32, f32) {
    let quarters = || {
        query.chunks(4).map(|values| {
            let mut four = [0.0_f32; 4];
            four[..values.len()].copy_from_slice(values);
            four
        })
    };
    let reach = |four: [f32; 4]| four.iter().map(|value| value.abs()).sum::<f32>();
    let largest = quarters().map(reach).fold(0.0, f32::max);
    let step = (2.0 * largest / f32::from(ENTRY_MAX)).max(f32::MIN_POSITIVE);
    let mut base = 0.0;
    tables.clear();
    for four in quarters() {
        let least = -reach(four);
        base += least;
        tables.push(std::array::from_fn(|pattern| {
            let signed = |(bit, value): (usize, &f32)| if pattern >> bit & 1 == 1 { *value } else { -value };
            let sum: f32 = four.iter().enumerate().map(signed).sum();
            // To the nearest; `as` cuts off, and saturates.
            (((sum - least) / step + 0.5) as u8).min(ENTRY_MAX)
        }));
    }
    tables.resize(query.len().next_multiple_of(PADDING) / 4, [0; 16]);
    (step, base)
}

/// A rotation that looks random and is always the same: signs drawn once, then a Hadamard transform, a few times. Where the
/// number of components is no power of two, it goes over the first and the last so many as are one.
struct Rotation {
    width: usize,
}

impl Rotation {
    fn new(dimensions: usize) -> Self {
        Self { width: 1 << dimensions.ilog2() }
    }

    fn apply(&self, values: &mut [f32]) {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let starts = [0, values.len() - self.width];
        let starts = if starts[1] == 0 { &starts[..1] } else { &starts };
        for _ in 0..ROTATIONS {
            for &start in starts {
                let values = &mut values[start..][..self.width];
                for values in values.chunks_mut(64) {
                    // xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    for (bit, value) in values.iter_mut().enumerate() {
                        *value = f32::from_bits(value.to_bits() ^ ((random >> bit) as u32 & 1) << 31);
                    }
                }
                hadamard(values);
            }
        }
    }
}

/// The Walsh–Hadamard transform, scaled to keep lengths. `values`: a power of two of them.
fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for pair in values.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (left, right) in left.iter_mut().zip(right) {
                (*left, *right) = (*left + *right, *left - *right);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}
