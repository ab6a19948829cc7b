//! The inner loops over numbers, compiled for several CPUs and chosen at run time.
//!
//! Each is one plain Rust function: integer sums are exact, and floating-point sums have a fixed order (16 lanes, then a
//! tree) which no target may change, so every machine gives the same bits.

use multiversion::multiversion;

/// Rows of codes, and the query's, are padded with zeros to a multiple of this.
pub(crate) const CODE_LANES: usize = 32;

/// How many rows share one entry of `maxima` in [`scan`], and one word of a bitset.
pub(crate) const BLOCK: usize = 64;

/// How codes of a row become a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowScale {
    /// Value of a step of the row's codes.
    pub(crate) step: f32,
    /// At least the length of what the codes leave out of the row.
    pub(crate) residual: f32,
}

/// A query for [`scan`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScanQuery<'a> {
    /// Padded as rows are; small enough that no sum of products with a row's codes leaves `i32`.
    pub(crate) codes: &'a [i16],
    /// Value of a step of `codes`.
    pub(crate) step: f32,
    /// Multiplies a row's residual: the query's length.
    pub(crate) length: f32,
    /// Added to every bound.
    pub(crate) slack: f32,
}

/// Writes to `upper` for each row a score that its exact one does not exceed, negative infinity for rows outside `keep`
/// (one bit a row, all rows if `None`), and to `maxima` the highest of each [`BLOCK`] of rows.
///
/// `codes` holds `upper.len()` rows of `query.codes.len()`. Rows outside `keep` are not visited where they are many.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx512vnni+avx2+fma+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+avx2+fma+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+sse4.2+ssse3+popcnt",
    "aarch64+neon",
))]
pub(crate) fn scan(
    codes: &[i8],
    rows: &[RowScale],
    query: ScanQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) {
    scan_any(codes, rows, query, keep, upper, maxima);
}

#[inline(always)]
fn scan_any(
    codes: &[i8],
    rows: &[RowScale],
    query: ScanQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) {
    let stride = query.codes.len();
    let blocks = codes.chunks(stride * BLOCK).zip(rows.chunks(BLOCK)).zip(upper.chunks_mut(BLOCK)).zip(maxima);
    for (block, (((codes, rows), upper), maximum)) in blocks.enumerate() {
        let kept = keep.map_or(u64::MAX, |words| words[block]);
        // Reading a row costs as much as four that are read in sequence.
        if kept.count_ones() as usize * 4 > BLOCK {
            for ((codes, row), upper) in codes.chunks_exact(stride).zip(rows).zip(upper.iter_mut()) {
                *upper = bound(codes, *row, query);
            }
            if kept != u64::MAX {
                for (at, upper) in upper.iter_mut().enumerate() {
                    *upper = if kept >> at & 1 == 1 { *upper } else { f32::NEG_INFINITY };
                }
            }
        } else {
            upper.fill(f32::NEG_INFINITY);
            let mut rest = kept;
            while rest != 0 {
                let at = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                upper[at] = bound(&codes[at * stride..][..stride], rows[at], query);
            }
        }
        *maximum = upper.iter().fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max });
    }
}

#[inline(always)]
fn bound(codes: &[i8], row: RowScale, query: ScanQuery<'_>) -> f32 {
    dot_codes_any(codes, query.codes) as f32 * (row.step * query.step) + (row.residual * query.length + query.slack)
}

#[inline(always)]
fn dot_codes_any(row: &[i8], query: &[i16]) -> i32 {
    let mut sum = 0_i32;
    for (row, query) in row.chunks_exact(CODE_LANES).zip(query.chunks_exact(CODE_LANES)) {
        for (&code, &with) in row.iter().zip(query) {
            sum += i32::from(code) * i32::from(with);
        }
    }
    sum
}

/// Dot product of two rows of one length.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    dot_any(left, right)
}

#[inline(always)]
fn dot_any(left: &[f32], right: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (left, right) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
    let rest = left.remainder().iter().zip(right.remainder());
    for (left, right) in left.zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    for (sum, (left, right)) in sums.iter_mut().zip(rest) {
        *sum += left * right;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Makes of each document's length, in `parts`, the part of a term's `weight` that it has: `weight · tf / (tf + base + slope ·
/// length)`, `tf` being the low 8 bits of the posting.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn saturate(postings: &[u32], weight: f32, base: f32, slope: f32, parts: &mut [f32]) {
    for (part, posting) in parts.iter_mut().zip(postings) {
        let frequency = (posting & 0xff) as f32;
        *part = weight * frequency / (frequency + (base + slope * *part));
    }
}

/// Adds to `sum` the rows of a table that `ids` name, each of `sum.len()` numbers in half precision, all finite.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2",
    "x86_64+avx2",
    "x86_64+sse4.2",
    "aarch64+neon"
))]
pub(crate) fn sum_half(table: &[u16], ids: &[u32], sum: &mut [f32]) {
    for &id in ids {
        let row = &table[id as usize * sum.len()..][..sum.len()];
        for (sum, &bits) in sum.iter_mut().zip(row) {
            *sum += widen(bits);
        }
    }
}

/// A finite number of half precision: its bits in the places of f32's, which makes it smaller by the difference of the
/// exponents' offsets, 2^112. Exact, for subnormal numbers too.
#[inline(always)]
fn widen(bits: u16) -> f32 {
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * SCALE;
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

/// Adds to `sum` the rows of a table that `ids` name, each of `sum.len()` numbers.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn sum_single(table: &[f32], ids: &[u32], sum: &mut [f32]) {
    for &id in ids {
        let row = &table[id as usize * sum.len()..][..sum.len()];
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
    }
}
