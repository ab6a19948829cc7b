//! The inner loops over numbers, compiled for several CPUs and chosen at run time.
//!
//! Each is one plain Rust function: integer sums are exact, and floating-point sums have a fixed order (16 lanes,
//! then a tree) which no target may change, so every machine gives the same bits.

mod prefetch;
pub(crate) mod signs;
#[cfg(target_arch = "x86_64")]
mod vnni;

use multiversion::multiversion;

/// Rows of codes, and the query's, are padded with zeros to a multiple of this.
pub(crate) const CODE_LANES: usize = 64;

/// How many rows ahead of the one that is read memory is asked for those that are read here and there.
const ROWS_AHEAD: usize = 8;

/// How many rows share one entry of `maxima` in [`scan`], and one word of a bitset.
pub(crate) const BLOCK: usize = 64;

/// How the codes of each row become a score.
#[derive(Debug, Default)]
pub(crate) struct RowScales {
    /// Value of a step of the row's codes.
    pub(crate) steps: Vec<f32>,
    /// At least the length of what the codes leave out of the row.
    pub(crate) residuals: Vec<f32>,
    /// Sum of the row's codes.
    pub(crate) sums: Vec<i32>,
}

impl RowScales {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self { steps: Vec::with_capacity(rows), residuals: Vec::with_capacity(rows), sums: Vec::with_capacity(rows) }
    }

    pub(crate) fn push(&mut self, step: f32, residual: f32, codes: &[i8]) {
        self.steps.push(step);
        self.residuals.push(residual);
        self.sums.push(codes.iter().map(|code| i32::from(*code)).sum());
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        (self.steps.capacity() + self.residuals.capacity()) * size_of::<f32>() + self.sums.capacity() * size_of::<i32>()
    }
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
pub(crate) fn scan(
    codes: &[i8],
    rows: &RowScales,
    query: ScanQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if vnni::scan(codes, rows, query, keep, upper, maxima) {
        return;
    }
    scan_plain(codes, rows, query, keep, upper, maxima);
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+avx2+fma+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+sse4.2+ssse3+popcnt",
    "aarch64+neon",
))]
fn scan_plain(
    codes: &[i8],
    rows: &RowScales,
    query: ScanQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) {
    scan_any(codes, rows, query, keep, upper, maxima, |codes, _, dots| dots_any(codes, query, dots));
}

/// `dots` computes the products of a block of rows, given their codes and sums of codes, with the query.
#[inline(always)]
fn scan_any(
    codes: &[i8],
    rows: &RowScales,
    query: ScanQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
    dots: impl Fn(&[i8], &[i32], &mut [i32; BLOCK]),
) {
    let stride = query.codes.len();
    let scales = rows.steps.chunks(BLOCK).zip(rows.residuals.chunks(BLOCK)).zip(rows.sums.chunks(BLOCK));
    let blocks = codes.chunks(stride * BLOCK).zip(scales).zip(upper.chunks_mut(BLOCK)).zip(maxima);
    let mut products = [0_i32; BLOCK];
    for (block, (((codes, ((steps, residuals), sums)), upper), maximum)) in blocks.enumerate() {
        let kept = keep.map_or(u64::MAX, |words| words[block]);
        // Reading a row costs as much as four that are read in sequence.
        if kept.count_ones() as usize * 4 > BLOCK {
            dots(codes, sums, &mut products);
            let len = upper.len().min(BLOCK);
            let (steps, residuals, upper) = (&steps[..len], &residuals[..len], &mut upper[..len]);
            for at in 0..len {
                upper[at] = bound(products[at], steps[at], residuals[at], query);
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
                let dot = dot_codes_any(&codes[at * stride..][..stride], query.codes);
                upper[at] = bound(dot, steps[at], residuals[at], query);
            }
        }
        *maximum = highest(upper);
    }
}

/// In lanes and then a tree, since the compiler keeps the order of comparisons of floats, and one after the other would
/// take longer than what comes before. Negative infinity of none.
#[inline(always)]
fn highest(values: &[f32]) -> f32 {
    let higher = |left: f32, right: f32| if right > left { right } else { left };
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = higher(*lane, value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = higher(*lane, value);
    }
    halves(lanes, higher)
}

/// What `both` makes of all lanes, those of each half together first: an order that no target changes.
#[inline(always)]
fn halves(mut lanes: [f32; 16], both: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = lanes.len() / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = both(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Products of the rows of `codes`, one block at most, with the query.
#[inline(always)]
fn dots_any(codes: &[i8], query: ScanQuery<'_>, dots: &mut [i32; BLOCK]) {
    match query.codes.as_chunks::<256>() {
        // The default encoder's rows: a length known beforehand saves a quarter of the time.
        ([with], []) => {
            for (row, dot) in codes.as_chunks::<256>().0.iter().zip(dots) {
                *dot = dot_codes_any(row, with);
            }
        }
        _ => {
            for (row, dot) in codes.chunks_exact(query.codes.len()).zip(dots) {
                *dot = dot_codes_any(row, query.codes);
            }
        }
    }
}

#[inline(always)]
fn bound(dot: i32, step: f32, residual: f32, query: ScanQuery<'_>) -> f32 {
    dot as f32 * (step * query.step) + (residual * query.length + query.slack)
}

/// Appends to `bounds` for each of `docs` what [`scan`] would write for that row, if it is at least `threshold`, and its place,
/// which is `start` more than its number.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+avx2+fma+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+sse4.2+ssse3+popcnt",
    "aarch64+neon",
))]
pub(crate) fn bounds_of(
    docs: &[u32],
    codes: &[i8],
    rows: &RowScales,
    query: ScanQuery<'_>,
    threshold: f32,
    start: u32,
    bounds: &mut Vec<(f32, u32)>,
) {
    let stride = query.codes.len();
    let row = |doc: u32| &codes[doc as usize * stride..][..stride];
    docs.iter().take(ROWS_AHEAD).for_each(|&doc| prefetch::read_soon(row(doc)));
    for (next, &doc) in docs.iter().enumerate() {
        if let Some(&ahead) = docs.get(next + ROWS_AHEAD) {
            prefetch::read_soon(row(ahead));
        }
        let at = doc as usize;
        let dot = dot_codes_any(row(doc), query.codes);
        let bound = bound(dot, rows.steps[at], rows.residuals[at], query);
        if bound >= threshold {
            bounds.push((bound, start + doc));
        }
    }
}

#[inline(always)]
fn dot_codes_any(row: &[i8], query: &[i16]) -> i32 {
    let length = row.len().min(query.len());
    let (row, query) = (&row[..length], &query[..length]);
    let mut sum = 0_i32;
    for at in 0..length {
        sum += i32::from(row[at]) * i32::from(query[at]);
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
    halves(sums, |left, right| left + right)
}

/// Dot product of a row kept as codes and fine parts, in steps of the latter, with a query of its length: the bits that
/// [`dot`] gives for the row in f32.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2",
    "x86_64+avx2",
    "x86_64+sse4.2",
    "aarch64+neon"
))]
pub(crate) fn dot_fine(codes: &[i8], fine: &[i8], query: &[f32]) -> f32 {
    dot_fine_any(codes, fine, query)
}

#[inline(always)]
fn dot_fine_any(codes: &[i8], fine: &[i8], query: &[f32]) -> f32 {
    const LANES: usize = 16;
    let value = |code: i8, fine: i8| (i32::from(code) * 256 + i32::from(fine)) as f32;
    let mut sums = [0.0_f32; LANES];
    let (codes, code_rest) = codes.as_chunks::<LANES>();
    let (fine, fine_rest) = fine.as_chunks::<LANES>();
    let (query, query_rest) = query.as_chunks::<LANES>();
    for ((codes, fine), query) in codes.iter().zip(fine).zip(query) {
        for lane in 0..LANES {
            sums[lane] += query[lane] * value(codes[lane], fine[lane]);
        }
    }
    for (sum, ((&code, &fine), &query)) in sums.iter_mut().zip(code_rest.iter().zip(fine_rest).zip(query_rest)) {
        *sum += query * value(code, fine);
    }
    halves(sums, |left, right| left + right)
}

/// Squared lengths, in fine steps: of the fine parts of a row, and of the whole row. Exact.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2",
    "x86_64+avx2",
    "x86_64+sse4.2",
    "aarch64+neon"
))]
pub(crate) fn squares(codes: &[i8], fine: &[i8]) -> (f64, f64) {
    let (mut residual, mut length) = (0_u64, 0_u64);
    for (codes, fine) in codes.chunks(64).zip(fine.chunks(64)) {
        let (mut of_fine, mut crossed, mut of_codes) = (0_i32, 0_i32, 0_i32);
        for (&code, &fine) in codes.iter().zip(fine) {
            let (code, fine) = (i32::from(code), i32::from(fine));
            of_fine += fine * fine;
            crossed += code * fine;
            of_codes += code * code;
        }
        residual += u64::from(of_fine.unsigned_abs());
        // Not below zero as a whole, though its middle part may be.
        length += (i64::from(of_codes) * 65_536 + i64::from(crossed) * 512 + i64::from(of_fine)).unsigned_abs();
    }
    (residual as f64, length as f64)
}

/// Writes to `maxima` the highest of each [`BLOCK`] of `values`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn maxima_of(values: &[f32], maxima: &mut [f32]) {
    maxima_of_any(values, maxima);
}

#[inline(always)]
fn maxima_of_any(values: &[f32], maxima: &mut [f32]) {
    for (maximum, block) in maxima.iter_mut().zip(values.chunks(BLOCK)) {
        *maximum = highest(block);
    }
}

/// Calls `found` with the place and the value of each of `values` that is at least `threshold`. Looks only at blocks whose
/// entry of `maxima`, at least the highest of each [`BLOCK`] of values, is.
pub(crate) fn each_at_least(values: &[f32], maxima: &[f32], threshold: f32, mut found: impl FnMut(u32, f32)) {
    let mut blocks = Vec::new();
    find_at_least(values, maxima, threshold, &mut blocks);
    for (first, mut which) in blocks {
        while which != 0 {
            let at = first + which.trailing_zeros();
            which &= which - 1;
            found(at, values[at as usize]);
        }
    }
}

/// The value at `place` of `values` in descending order, the highest at 0; `None` if there are not so many.
pub(crate) fn nth_highest(values: &[f32], place: usize) -> Option<f32> {
    if place >= values.len() {
        return None;
    }
    let mut values = values.to_vec();
    Some(*values.select_nth_unstable_by(place, |left, right| right.total_cmp(left)).1)
}

/// Appends to `blocks`, for each block of `values` with some that are at least `threshold`, where it starts and a bit for each
/// of them; see [`each_at_least`].
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2", "x86_64+avx2", "aarch64+neon"))]
fn find_at_least(values: &[f32], maxima: &[f32], threshold: f32, blocks: &mut Vec<(u32, u64)>) {
    find_at_least_any(values, maxima, threshold, blocks);
}

#[inline(always)]
fn find_at_least_any(values: &[f32], maxima: &[f32], threshold: f32, blocks: &mut Vec<(u32, u64)>) {
    const GROUP: usize = 16;
    let mut values = values.chunks(GROUP * BLOCK).zip((0..).step_by(GROUP * BLOCK));
    for maxima in maxima.chunks(GROUP) {
        let Some((values, first)) = values.next() else { break };
        // Most are too low, and this tells it of many at once.
        if maxima.iter().fold(true, |all, maximum| all & (*maximum < threshold)) {
            continue;
        }
        for ((&maximum, values), first) in maxima.iter().zip(values.chunks(BLOCK)).zip((first..).step_by(BLOCK)) {
            if maximum >= threshold {
                blocks.push((first, which_at_least(values, threshold)));
            }
        }
    }
}

/// A bit for each of a block's `values` that is at least `threshold`.
#[inline(always)]
fn which_at_least(values: &[f32], threshold: f32) -> u64 {
    let mut are = [0_u8; BLOCK];
    match values.as_array::<BLOCK>() {
        // A length that the compiler knows.
        Some(values) => are.iter_mut().zip(values).for_each(|(is, value)| *is = u8::from(*value >= threshold)),
        None => are.iter_mut().zip(values).for_each(|(is, value)| *is = u8::from(*value >= threshold)),
    }
    let mut which = 0;
    for (eight, bit) in are.as_chunks::<8>().0.iter().zip((0..).step_by(8)) {
        // Eight bytes of 0 or 1 become eight bits: each byte is moved to one of the highest, and nothing else gets there.
        which |= u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56 << bit;
    }
    which
}

/// Makes of each document's length, in `parts`, the part of a term's `weight` that it has: `weight · tf / (tf + base
/// + slope · length)`, `tf` being the low 8 bits of the posting.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn saturate(postings: &[u32], weight: f32, base: f32, slope: f32, parts: &mut [f32]) {
    saturate_any(postings, weight, base, slope, parts);
}

/// Adds to each of `scores` what [`saturate`] makes of that document's frequency and length: nothing where it is 0.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2", "x86_64+avx2", "aarch64+neon"))]
pub(crate) fn add_saturated(
    frequencies: &[u8],
    lengths: &[u32],
    weight: f32,
    base: f32,
    slope: f32,
    scores: &mut [f32],
) {
    add_saturated_any(frequencies, lengths, weight, base, slope, scores);
}

#[inline(always)]
fn add_saturated_any(frequencies: &[u8], lengths: &[u32], weight: f32, base: f32, slope: f32, scores: &mut [f32]) {
    for ((score, &frequency), &length) in scores.iter_mut().zip(frequencies).zip(lengths) {
        let frequency = f32::from(frequency);
        *score += weight * frequency / (frequency + (base + slope * length as f32));
    }
}

#[inline(always)]
fn saturate_any(postings: &[u32], weight: f32, base: f32, slope: f32, parts: &mut [f32]) {
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
    sum_half_any(table, ids, sum);
}

#[inline(always)]
fn sum_half_any(table: &[u16], ids: &[u32], sum: &mut [f32]) {
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
    sum_single_any(table, ids, sum);
}

#[inline(always)]
fn sum_single_any(table: &[f32], ids: &[u32], sum: &mut [f32]) {
    for &id in ids {
        let row = &table[id as usize * sum.len()..][..sum.len()];
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::bits::Bits;

    /// Everything that the kernels give for one drawn input, as bits.
    type Outcome = (Vec<u32>, Vec<u32>, u32, Vec<u32>, Vec<u32>, Vec<u32>, Vec<(u32, u64)>);

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    struct Input {
        codes: Vec<i8>,
        scales: RowScales,
        query: Vec<i16>,
        keep: Vec<u64>,
        left: Vec<f32>,
        right: Vec<f32>,
        halves: Vec<u16>,
        ids: Vec<u32>,
        postings: Vec<u32>,
    }

    fn input(seed: u64) -> Input {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (rows, stride) = (rng.random_range(1..200_usize), CODE_LANES * rng.random_range(1..9_usize));
        let odd = rng.random_range(1..300);
        let mut keep = Bits::zeros(rows);
        (0..rows as u32).for_each(|row| _ = keep.set(row, rng.random_bool([0.1, 0.25, 0.9][row as usize / BLOCK % 3])));
        let codes: Vec<i8> = (0..rows * stride).map(|_| rng.random_range(-127..=127)).collect();
        let mut scales = RowScales::default();
        for row in codes.chunks_exact(stride) {
            scales.push(rng.random_range(0.0..0.01), rng.random_range(0.0..0.02), row);
        }
        Input {
            scales,
            codes,
            query: (0..stride).map(|_| rng.random_range(i16::MIN..=i16::MAX)).collect(),
            keep: keep.words().to_vec(),
            left: (0..odd).map(|_| rng.random_range(-1.0..1.0)).collect(),
            right: (0..odd).map(|_| rng.random_range(-1.0..1.0)).collect(),
            halves: (0..40 * 7).map(|_| f16::from_f32(rng.random_range(-4.0..4.0)).to_bits()).collect(),
            ids: (0..30).map(|_| rng.random_range(0..7)).collect(),
            postings: (0..odd as u32).map(|doc| doc << 8 | rng.random_range(1..=255)).collect(),
        }
    }

    /// Kernels as one target has them.
    macro_rules! target {
        ($name:ident, $($target:literal)?) => {
            mod $name {
                use super::*;

                $(#[multiversion(targets($target))])?
                pub(super) fn outcome(input: &Input) -> Outcome {
                    let rows = input.scales.sums.len();
                    let query = ScanQuery { codes: &input.query, step: 0.001, length: 1.0, slack: 0.0001 };
                    let mut upper = vec![0.0; rows];
                    let mut maxima = vec![0.0; rows.div_ceil(BLOCK)];
                    let dots = |codes: &[i8], _: &[i32], dots: &mut _| dots_any(codes, query, dots);
                    scan_any(&input.codes, &input.scales, query, Some(&input.keep), &mut upper, &mut maxima, dots);
                    let dot = dot_any(&input.left, &input.right);
                    let mut half = vec![0.0; 40];
                    sum_half_any(&input.halves, &input.ids, &mut half);
                    let mut single = vec![0.0; input.left.len() / 7];
                    sum_single_any(&input.left, &input.ids, &mut single);
                    let mut parts: Vec<f32> = (1..=input.postings.len()).map(|length| length as f32).collect();
                    saturate_any(&input.postings, 3.21, 0.3, 0.0123, &mut parts);
                    let mut highest = vec![0.0; parts.len().div_ceil(BLOCK)];
                    maxima_of_any(&parts, &mut highest);
                    let mut blocks = Vec::new();
                    find_at_least_any(&parts, &highest, parts[parts.len() / 2], &mut blocks);
                    let lengths: Vec<u32> = (1..=parts.len() as u32).collect();
                    let frequencies: Vec<u8> = input.postings.iter().map(|posting| *posting as u8).collect();
                    add_saturated_any(&frequencies, &lengths, 3.21, 0.3, 0.0123, &mut parts);
                    (bits(&upper), bits(&maxima), dot.to_bits(), bits(&half), bits(&single), bits(&parts), blocks)
                }
            }
        };
    }

    target!(baseline,);
    #[cfg(target_arch = "x86_64")]
    target!(sse, "x86_64+sse4.2+ssse3+popcnt");
    #[cfg(target_arch = "x86_64")]
    target!(avx2, "x86_64+avx2+fma+bmi1+bmi2+lzcnt+popcnt");
    #[cfg(target_arch = "x86_64")]
    target!(avx512, "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma+bmi1+bmi2+lzcnt+popcnt");

    /// Each target that this machine has (one that it lacks falls back to the baseline) gives the same bits.
    #[test]
    fn every_target_gives_the_same() {
        for seed in 0..30 {
            let input = input(seed);
            let expected = baseline::outcome(&input);
            #[cfg(target_arch = "x86_64")]
            for outcome in [sse::outcome, avx2::outcome, avx512::outcome] {
                assert_eq!(outcome(&input), expected, "seed {seed}");
            }
            let mut upper = vec![0.0; input.scales.sums.len()];
            let mut maxima = vec![0.0; input.scales.sums.len().div_ceil(BLOCK)];
            let query = ScanQuery { codes: &input.query, step: 0.001, length: 1.0, slack: 0.0001 };
            scan(&input.codes, &input.scales, query, Some(&input.keep), &mut upper, &mut maxima);
            let chosen = dot(&input.left, &input.right);
            assert_eq!((bits(&upper), bits(&maxima), chosen.to_bits()), (expected.0, expected.1, expected.2));
        }
    }

    #[test]
    fn sums_of_codes_are_exact() {
        for seed in 0..30 {
            let input = input(seed);
            let stride = input.query.len();
            for row in input.codes.chunks_exact(stride) {
                let exact: i64 =
                    row.iter().zip(&input.query).map(|(&code, &with)| i64::from(code) * i64::from(with)).sum();
                assert_eq!(i64::from(dot_codes_any(row, &input.query)), exact);
            }
        }
    }

    #[test]
    fn the_maximum_of_a_block_is_that_of_its_kept_rows() {
        let codes: Vec<i8> = (0..130).flat_map(|row| [(row % 100) as i8; CODE_LANES]).collect();
        let mut scales = RowScales::default();
        codes.chunks_exact(CODE_LANES).for_each(|row| scales.push(1.0, 0.0, row));
        let query = ScanQuery { codes: &[1; CODE_LANES], step: 1.0, length: 1.0, slack: 0.5 };
        let (mut upper, mut maxima) = (vec![0.0; 130], vec![0.0; 3]);
        scan(&codes, &scales, query, None, &mut upper, &mut maxima);
        assert_eq!(maxima, [63, 99, 29].map(|code| (code * CODE_LANES) as f32 + 0.5));
        scan(&codes, &scales, query, Some(&[u64::MAX >> 1, 0, 1]), &mut upper, &mut maxima);
        assert_eq!(maxima, [(62 * CODE_LANES) as f32 + 0.5, f32::NEG_INFINITY, (28 * CODE_LANES) as f32 + 0.5]);
        assert_eq!(upper.iter().filter(|bound| bound.is_finite()).count(), 64);
    }

    #[test]
    fn half_precision_widens_exactly() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if half.is_finite() {
                assert_eq!(widen(bits).to_bits(), half.to_f32().to_bits(), "{bits:#06x}");
            }
        }
    }

    #[test]
    fn those_that_are_at_least_a_threshold_are_found() {
        let rng = &mut StdRng::seed_from_u64(9);
        for len in [0, 1, 63, 64, 65, 1_000_usize] {
            let values: Vec<f32> = (0..len).map(|_| rng.random_range(-1.0..1.0)).collect();
            let mut maxima = vec![0.0; len.div_ceil(BLOCK)];
            maxima_of(&values, &mut maxima);
            for threshold in [-2.0, 0.0, 0.9, values.get(len / 2).copied().unwrap_or(1.0), 2.0] {
                let mut found = Vec::new();
                each_at_least(&values, &maxima, threshold, |at, value| found.push((at, value)));
                let expected = (0..).zip(values.iter().copied()).filter(|(_, value)| *value >= threshold);
                assert_eq!(found, expected.collect::<Vec<(u32, f32)>>(), "{threshold} of {len}");
            }
        }
    }
}
