//! A safe prefetch. The engine forbids `unsafe`, and the standard library's prefetch is not callable without it.
#![no_std]

/// Asks the processor to fetch the cache line at the start of `value`. Only speed changes.
#[inline(always)]
pub fn read<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86-64 processor, and a prefetch of any address never faults or writes.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
