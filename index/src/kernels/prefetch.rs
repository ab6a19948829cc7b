//! Hints to the memory that something will be read, so that the wait for it is over when it is.

#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "the compiler knows no safe word for a hint; what makes it sound stands beside it")
)]

/// Bytes that memory hands over at once.
const LINE_BYTES: usize = 64;

/// Says that all of `row` will be read soon. Without effect on what a program computes, and none at all where there is no
/// word for it.
#[inline(always)]
pub(super) fn read_soon(row: &[i8]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint reads nothing that the program would see and faults nowhere; here the place is even within `row`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, LINE_BYTES);
}
