//! Bounds from sign codes: one bit of each component, four components at a time looked up in tables made of the query.
//!
//! The codes of a block of rows lie transposed, so that one shuffle of bytes does as many lookups as a register has bytes
//! (André, Kermarrec, Le Scouarnec, "Cache locality is not enough", VLDB 2015). Safe Rust has no word for a shuffle, and the
//! compiler makes none of a loop over a table. Sums of integers are exact, so every way gives the same bits.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "see above; what makes each call sound stands beside it")
)]

use super::{BLOCK, highest};

/// Lookups of this many tables are added up in bytes: sixteen of [`ENTRY_MAX`] are below 256.
const TABLES_A_TURN: usize = 16;
/// Largest entry of a table.
pub(crate) const ENTRY_MAX: u8 = 15;
/// Most tables of a query: so many of the largest entries are still a sum of 16 bits.
pub(crate) const TABLES_MAX: usize = u16::MAX as usize / ENTRY_MAX as usize / TABLES_A_TURN * TABLES_A_TURN;

/// A table for each four components: what each pattern of their signs adds to a sum.
pub(crate) type Table = [u8; 16];

/// A query for [`estimate`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignQuery<'a> {
    /// An even number of them, no entry above [`ENTRY_MAX`].
    pub(crate) tables: &'a [Table],
    /// Value of a step of a sum.
    pub(crate) step: f32,
    /// Value of the sum 0.
    pub(crate) base: f32,
    /// Multiplies a row's error.
    pub(crate) margin: f32,
    /// Added to every bound.
    pub(crate) offset: f32,
}

/// What the sign codes of some rows mean.
#[derive(Debug, Default)]
pub(crate) struct SignScales {
    /// Multiplies the value of a row's sum.
    pub(crate) scales: Vec<f32>,
    /// How far a row's estimate is off, usually.
    pub(crate) errors: Vec<f32>,
}

/// Where in a block's stretch of bytes a row's byte is. Even bytes are the first half of the rows, for sums of 16 bits to
/// come out in order.
pub(crate) fn place_in_block(row: usize) -> usize {
    row % (BLOCK / 2) * 2 + row / (BLOCK / 2)
}

/// Writes to `upper` for each row a bound of its score, negative infinity for rows outside `keep` (one bit a row, all rows
/// if `None`), and to `maxima` the highest of each [`BLOCK`] of rows.
///
/// `codes`: for each block of rows, for each eight components (two tables, the first in the low bits) a byte of each row,
/// in the order of [`place_in_block`]; the last block is filled up with anything.
pub(crate) fn estimate(
    codes: &[u8],
    rows: &SignScales,
    query: SignQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: the CPU has what this function is compiled for, as was just asked.
            return unsafe { x86::estimate_avx512(codes, rows, query, keep, upper, maxima) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { x86::estimate_avx2(codes, rows, query, keep, upper, maxima) };
        }
    }
    estimate_plain(codes, rows, query, keep, upper, maxima);
}

fn estimate_plain(
    codes: &[u8],
    rows: &SignScales,
    query: SignQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) {
    // Two tables as one: half as many lookups.
    let pair = |tables: &[Table]| {
        std::array::from_fn(|byte: usize| u16::from(tables[0][byte & 15]) + u16::from(tables[1][byte >> 4]))
    };
    let pairs: Vec<[u16; 256]> = query.tables.chunks_exact(2).map(pair).collect();
    let bounds = |codes: &[u8], scales: &[f32], errors: &[f32], upper: &mut [f32]| {
        let mut in_place = [0_u16; BLOCK];
        for (codes, pair) in codes.chunks_exact(BLOCK).zip(&pairs) {
            for (sum, &code) in in_place.iter_mut().zip(codes) {
                *sum += pair[usize::from(code)];
            }
        }
        bounds_any(&std::array::from_fn(|row| in_place[place_in_block(row)]), scales, errors, query, upper)
    };
    estimate_any(codes, rows, query, keep, upper, maxima, bounds);
}

/// `bounds` writes the bounds of a block's rows, given their codes, scales and errors, and returns the highest.
#[inline(always)]
fn estimate_any(
    codes: &[u8],
    rows: &SignScales,
    query: SignQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
    bounds: impl Fn(&[u8], &[f32], &[f32], &mut [f32]) -> f32,
) {
    let codes = codes.chunks_exact(query.tables.len() / 2 * BLOCK);
    let blocks = codes.zip(rows.scales.chunks(BLOCK).zip(rows.errors.chunks(BLOCK)));
    for (block, (((codes, (scales, errors)), upper), maximum)) in
        blocks.zip(upper.chunks_mut(BLOCK)).zip(maxima).enumerate()
    {
        let kept = keep.map_or(u64::MAX, |words| words[block]);
        if kept == 0 {
            upper.fill(f32::NEG_INFINITY);
            *maximum = f32::NEG_INFINITY;
            continue;
        }
        *maximum = bounds(codes, scales, errors, upper);
        if kept != u64::MAX {
            for (at, upper) in upper.iter_mut().enumerate() {
                *upper = if kept >> at & 1 == 1 { *upper } else { f32::NEG_INFINITY };
            }
            *maximum = highest(upper);
        }
    }
}

/// Writes the bounds of rows, given their sums, and returns the highest.
#[inline(always)]
fn bounds_any(sums: &[u16; BLOCK], scales: &[f32], errors: &[f32], query: SignQuery<'_>, upper: &mut [f32]) -> f32 {
    let SignQuery { step, base, margin, offset, .. } = query;
    let len = upper.len().min(BLOCK);
    let (scales, errors, upper) = (&scales[..len], &errors[..len], &mut upper[..len]);
    for at in 0..len {
        upper[at] = (f32::from(sums[at]) * step + base) * scales[at] + (errors[at] * margin + offset);
    }
    highest(upper)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    pub(super) fn estimate_avx512(
        codes: &[u8],
        rows: &SignScales,
        query: SignQuery<'_>,
        keep: Option<&[u64]>,
        upper: &mut [f32],
        maxima: &mut [f32],
    ) {
        let SignQuery { step, base, margin, offset, .. } = query;
        let (steps, bases, margins, offsets) =
            (_mm512_set1_ps(step), _mm512_set1_ps(base), _mm512_set1_ps(margin), _mm512_set1_ps(offset));
        let bounds = |codes: &[u8], scales: &[f32], errors: &[f32], upper: &mut [f32]| {
            // `both`: sums of even places, with those of odd places 256-fold on top; `odd`: those of odd places.
            let (mut both, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            let mut turn = |codes: &[[u8; BLOCK]], tables: &[[Table; 2]]| {
                let (mut sum, mut sum_high) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                for (codes, [low, high]) in codes.iter().zip(tables) {
                    let codes: __m512i = bytemuck::cast(*codes);
                    // Of an index six bits count. A table stands in its register four times: then four bits do, and the others
                    // need not be cleared.
                    let low = _mm512_broadcast_i32x4(bytemuck::cast::<Table, __m128i>(*low));
                    let high = _mm512_broadcast_i32x4(bytemuck::cast::<Table, __m128i>(*high));
                    sum = _mm512_add_epi8(sum, _mm512_permutexvar_epi8(codes, low));
                    sum_high = _mm512_add_epi8(sum_high, _mm512_permutexvar_epi8(_mm512_srli_epi16::<4>(codes), high));
                }
                sum = _mm512_add_epi8(sum, sum_high);
                both = _mm512_add_epi16(both, sum);
                odd = _mm512_add_epi16(odd, _mm512_srli_epi16::<8>(sum));
            };
            // Turns of a length that the compiler knows, and then the rest.
            let (code_turns, code_rest) = codes.as_chunks::<BLOCK>().0.as_chunks::<{ TABLES_A_TURN / 2 }>();
            let (table_turns, table_rest) = query.tables.as_chunks::<2>().0.as_chunks::<{ TABLES_A_TURN / 2 }>();
            code_turns.iter().zip(table_turns).for_each(|(codes, tables)| turn(codes, tables));
            turn(code_rest, table_rest);
            let even = _mm512_sub_epi16(both, _mm512_slli_epi16::<8>(odd));
            let full = (scales.as_array::<BLOCK>(), errors.as_array::<BLOCK>(), upper.as_mut_array::<BLOCK>());
            let (Some(scales), Some(errors), Some(upper)) = full else {
                return bounds_any(&bytemuck::cast([even, odd]), scales, errors, query, upper);
            };
            let mut highest = _mm512_set1_ps(f32::NEG_INFINITY);
            let rows = scales.as_chunks::<16>().0.iter().zip(errors.as_chunks::<16>().0);
            let mut places = rows.zip(upper.as_chunks_mut::<16>().0);
            for sums in [even, odd] {
                for sums in [_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums)] {
                    let Some(((scales, errors), upper)) = places.next() else { break };
                    let sums = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(sums));
                    let (scales, errors): (__m512, __m512) = (bytemuck::cast(*scales), bytemuck::cast(*errors));
                    let estimates = _mm512_mul_ps(_mm512_add_ps(_mm512_mul_ps(sums, steps), bases), scales);
                    let bounds = _mm512_add_ps(estimates, _mm512_add_ps(_mm512_mul_ps(errors, margins), offsets));
                    *upper = bytemuck::cast(bounds);
                    highest = _mm512_max_ps(highest, bounds);
                }
            }
            _mm512_reduce_max_ps(highest)
        };
        estimate_any(codes, rows, query, keep, upper, maxima, bounds);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn estimate_avx2(
        codes: &[u8],
        rows: &SignScales,
        query: SignQuery<'_>,
        keep: Option<&[u64]>,
        upper: &mut [f32],
        maxima: &mut [f32],
    ) {
        const HALF: usize = BLOCK / 2;
        let low_bits = _mm256_set1_epi8(15);
        let bounds = |codes: &[u8], scales: &[f32], errors: &[f32], upper: &mut [f32]| {
            // As with twice as long registers, in two.
            let (mut both, mut odd) = ([_mm256_setzero_si256(); 2], [_mm256_setzero_si256(); 2]);
            for (codes, tables) in codes.chunks(BLOCK * TABLES_A_TURN / 2).zip(query.tables.chunks(TABLES_A_TURN)) {
                let mut sum = [_mm256_setzero_si256(); 2];
                for (codes, [low, high]) in codes.as_chunks::<BLOCK>().0.iter().zip(tables.as_chunks().0) {
                    let low = _mm256_broadcastsi128_si256(bytemuck::cast(*low));
                    let high = _mm256_broadcastsi128_si256(bytemuck::cast(*high));
                    for (sum, codes) in sum.iter_mut().zip(codes.as_chunks::<HALF>().0) {
                        let codes: __m256i = bytemuck::cast(*codes);
                        let high_bits = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low_bits);
                        *sum = _mm256_add_epi8(*sum, _mm256_shuffle_epi8(low, _mm256_and_si256(codes, low_bits)));
                        *sum = _mm256_add_epi8(*sum, _mm256_shuffle_epi8(high, high_bits));
                    }
                }
                for half in 0..2 {
                    both[half] = _mm256_add_epi16(both[half], sum[half]);
                    odd[half] = _mm256_add_epi16(odd[half], _mm256_srli_epi16::<8>(sum[half]));
                }
            }
            let mut sums = [0_u16; BLOCK];
            let (first, second) = sums.split_at_mut(HALF);
            for half in 0..2 {
                let even = _mm256_sub_epi16(both[half], _mm256_slli_epi16::<8>(odd[half]));
                let at = half * HALF / 2;
                first[at..][..HALF / 2].copy_from_slice(&bytemuck::cast::<__m256i, [u16; HALF / 2]>(even));
                second[at..][..HALF / 2].copy_from_slice(&bytemuck::cast::<__m256i, [u16; HALF / 2]>(odd[half]));
            }
            bounds_any(&sums, scales, errors, query, upper)
        };
        estimate_any(codes, rows, query, keep, upper, maxima, bounds);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Plainly, row by row.
    fn sum_of(codes: &[u8], tables: &[Table], row: usize) -> u16 {
        let block = &codes[row / BLOCK * BLOCK * tables.len() / 2..];
        let byte = |pair: usize| usize::from(block[pair * BLOCK + place_in_block(row % BLOCK)]);
        (0..tables.len() / 2)
            .map(|pair| u16::from(tables[2 * pair][byte(pair) & 15]) + u16::from(tables[2 * pair + 1][byte(pair) >> 4]))
            .sum()
    }

    #[test]
    fn every_target_gives_the_sums_of_lookups() {
        for seed in 0..30 {
            let rng = &mut StdRng::seed_from_u64(seed);
            let (rows, tables) = (rng.random_range(1..300_usize), 4 * rng.random_range(1..60_usize));
            let codes: Vec<u8> = (0..rows.next_multiple_of(BLOCK) * tables / 2).map(|_| rng.random()).collect();
            // The largest sums too.
            let least = if seed % 2 == 0 { 0 } else { ENTRY_MAX };
            let tables: Vec<Table> =
                (0..tables).map(|_| std::array::from_fn(|_| rng.random_range(least..=ENTRY_MAX))).collect();
            let scales = SignScales {
                scales: (0..rows).map(|_| rng.random_range(0.0..0.1)).collect(),
                errors: (0..rows).map(|_| rng.random_range(0.0..0.1)).collect(),
            };
            let words = rows.div_ceil(64);
            let keep: Vec<u64> = (0..words).map(|_| rng.random::<u64>() & rng.random::<u64>()).collect();
            let query = SignQuery { tables: &tables, step: 0.01, base: -0.3, margin: 3.0, offset: 0.2 };
            for keep in [None, Some(keep.as_slice()), Some(&vec![0; words])] {
                let expected: Vec<f32> = (0..rows)
                    .map(|row| match keep.is_none_or(|keep| keep[row / 64] >> (row % 64) & 1 == 1) {
                        true => {
                            (f32::from(sum_of(&codes, &tables, row)) * 0.01 - 0.3) * scales.scales[row]
                                + (scales.errors[row] * 3.0 + 0.2)
                        }
                        false => f32::NEG_INFINITY,
                    })
                    .collect();
                let check = |estimate: &dyn Fn(&mut [f32], &mut [f32])| {
                    let (mut upper, mut maxima) = (vec![0.0; rows], vec![0.0; rows.div_ceil(BLOCK)]);
                    estimate(&mut upper, &mut maxima);
                    assert_eq!(upper, expected, "seed {seed}");
                    for (maximum, block) in maxima.iter().zip(expected.chunks(BLOCK)) {
                        assert_eq!(*maximum, block.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                    }
                };
                check(&|upper, maxima| estimate(&codes, &scales, query, keep, upper, maxima));
                check(&|upper, maxima| estimate_plain(&codes, &scales, query, keep, upper, maxima));
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the CPU has it, as was just asked.
                    check(&|upper, maxima| unsafe {
                        x86::estimate_avx2(&codes, &scales, query, keep, upper, maxima);
                    });
                }
            }
        }
    }
}
