//! Products of codes by AVX-512 VNNI, which multiplies and adds four pairs of bytes in each lane at once.
//!
//! Safe Rust cannot say this: the compiler widens the bytes to 16 bits and multiplies those in 256-bit registers. Done so, a
//! search takes less time (`cargo bench --bench search -- semantic`, with and without this module), and memory is what it
//! waits for. Sums of integers are exact, so the outcome is that of the plain loop.
//!
//! The instruction takes bytes without a sign on one side. A query's code of 16 bits is `256·h + l - 32768` with bytes `h`
//! and `l` without a sign, so the product with a row's codes `c` is `256·(h·c) + l·c - 32768·Σc`, the last sum being stored
//! with the row.

#![expect(unsafe_code, reason = "see above; what makes each call sound stands beside it")]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{BLOCK, RowScales, ScanQuery, scan_any};

/// Bytes of a register.
const LANES: usize = 64;
/// Rows whose sums are taken together.
const ROWS: usize = 16;
/// Registers of the longest query that is held in them; longer ones are not done here.
const REGISTERS_MAX: usize = 8;

/// [`super::scan`], if this CPU can do it this way and `query` is short enough; false if nothing was done.
pub(super) fn scan(
    codes: &[i8],
    rows: &RowScales,
    query: ScanQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) -> bool {
    let registers = query.codes.len() / LANES;
    if !query.codes.len().is_multiple_of(LANES) || registers > REGISTERS_MAX || !is_available() {
        return false;
    }
    // SAFETY: the CPU has what these functions are compiled for, as was just asked.
    unsafe {
        match registers {
            4 => scan_of::<4>(codes, rows, query, keep, upper, maxima),
            6 => scan_of::<6>(codes, rows, query, keep, upper, maxima),
            8 => scan_of::<8>(codes, rows, query, keep, upper, maxima),
            _ => return false,
        }
    }
    true
}

/// Whether this CPU has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn scan_of<const REGISTERS: usize>(
    codes: &[i8],
    rows: &RowScales,
    query: ScanQuery<'_>,
    keep: Option<&[u64]>,
    upper: &mut [f32],
    maxima: &mut [f32],
) {
    let mut high = [_mm512_setzero_si512(); REGISTERS];
    let mut low = high;
    for (register, codes) in query.codes.chunks_exact(LANES).take(REGISTERS).enumerate() {
        let unsigned = |code: i16| code.cast_unsigned() ^ 0x8000;
        let mut bytes = [0_u8; LANES];
        bytes.iter_mut().zip(codes).for_each(|(byte, code)| *byte = (unsigned(*code) >> 8) as u8);
        high[register] = bytemuck::cast(bytes);
        bytes.iter_mut().zip(codes).for_each(|(byte, code)| *byte = unsigned(*code) as u8);
        low[register] = bytemuck::cast(bytes);
    }
    let dots = |codes: &[i8], sums: &[i32], dots: &mut [i32; BLOCK]| {
        let (chunks, _) = codes.as_chunks::<LANES>();
        let rows = chunks.chunks(REGISTERS * ROWS).zip(sums.chunks(ROWS)).zip(dots.as_chunks_mut::<ROWS>().0);
        for ((chunks, sums), dots) in rows {
            let mut products = [_mm512_setzero_si512(); ROWS];
            for (chunks, product) in chunks.chunks_exact(REGISTERS).zip(&mut products) {
                let (mut highs, mut lows) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                for register in 0..REGISTERS {
                    let codes = bytemuck::cast(chunks[register]);
                    highs = _mm512_dpbusd_epi32(highs, high[register], codes);
                    lows = _mm512_dpbusd_epi32(lows, low[register], codes);
                }
                *product = _mm512_add_epi32(_mm512_slli_epi32::<8>(highs), lows);
            }
            *dots = bytemuck::cast(sum_each(products));
            for (dot, sum) in dots.iter_mut().zip(sums) {
                *dot = dot.wrapping_sub(sum.wrapping_shl(15));
            }
        }
    };
    scan_any(codes, rows, query, keep, upper, maxima, dots);
}

/// The sum of each register's lanes, in their order: halves of two registers are put side by side and added, four times.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_each(rows: [__m512i; ROWS]) -> __m512i {
    let pairs: [__m512i; 8] = std::array::from_fn(|at| {
        let (a, b) = (rows[2 * at], rows[2 * at + 1]);
        _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
    });
    let fours: [__m512i; 4] = std::array::from_fn(|at| {
        let (a, b) = (pairs[2 * at], pairs[2 * at + 1]);
        _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    });
    let even_and_odd = |a, b| _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    even_and_odd(even_and_odd(fours[0], fours[1]), even_and_odd(fours[2], fours[3]))
}
