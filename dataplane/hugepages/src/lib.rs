//! A global allocator that puts large tables on huge pages.
//!
//! A table of a million stations is accessed at random. On pages of 4 KiB nearly every lookup misses the TLB
//! as well as the cache, and in a virtual machine a TLB miss walks two page tables. So every allocation of
//! [`HUGE`] bytes or more starts on a multiple of [`HUGE`], and the kernel is advised to use huge pages
//! there. It may decline: the result is then correct but slower. Smaller allocations pass through unchanged.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use rustix::mm::{Advice, madvise};

/// Bytes of a huge page on x86-64, and on aarch64 with pages of 4 KiB.
pub const HUGE: usize = 2 << 20;

/// Wraps another allocator.
#[derive(Clone, Copy, Debug)]
pub struct HugePages<A>(pub A);

/// The layout for the inner allocator, the same for the allocation and the release of a block.
fn widened(layout: Layout) -> Layout {
    if layout.size() < HUGE { layout } else { layout.align_to(HUGE).unwrap_or(layout) }
}

// SAFETY: every call goes to the inner allocator, with the same layout for alloc and dealloc of a block; its
// blocks have at least the requested alignment.
unsafe impl<A: GlobalAlloc> GlobalAlloc for HugePages<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` holds for a larger alignment too.
        let block = unsafe { self.0.alloc(widened(layout)) };
        if layout.size() >= HUGE
            && let Some(start) = NonNull::new(block)
        {
            // Whole pages only: the bytes behind the last one may belong to another block.
            let len = layout.size() & !(HUGE - 1);
            // SAFETY: the range is within our block, and the advice changes nothing that can be read.
            unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage).ok() };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `alloc` with this layout, so from the inner one with its widened form.
        unsafe { self.0.dealloc(block, widened(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() < HUGE {
            // SAFETY: as for `alloc`; `widened` leaves such a small layout unchanged.
            return unsafe { self.0.alloc_zeroed(layout) };
        }
        // SAFETY: as for `alloc`; a block that is not null has `size` bytes.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.size().max(size) < HUGE {
            // SAFETY: the caller's promise; neither layout is widened.
            return unsafe { self.0.realloc(block, layout, size) };
        }
        // SAFETY: `size` with this alignment is a layout by the caller's promise; both blocks hold the bytes copied.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: HugePages<std::alloc::System> = HugePages(std::alloc::System);

    #[test]
    fn a_large_table_lies_on_huge_pages_where_the_kernel_has_them() {
        let table = vec![1u8; 5 * HUGE];
        assert_eq!(table.as_ptr() as usize % HUGE, 0);
        let enabled =
            std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        if enabled.contains("[never]") || enabled.is_empty() {
            return;
        }
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(
            text.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" hg")),
            "no advice was taken"
        );
        assert!(table.iter().all(|&byte| byte == 1));
    }

    #[test]
    fn what_grows_and_shrinks_across_the_limit_keeps_its_content() {
        let mut numbers = Vec::new();
        for n in 0..(HUGE / 2) as u64 {
            numbers.push(n);
        }
        numbers.truncate(1000);
        numbers.shrink_to_fit();
        assert!(numbers.iter().copied().eq(0..1000));
        let zeros = vec![0u64; HUGE];
        drop(numbers);
        assert!(zeros.iter().all(|&zero| zero == 0));
        drop(zeros);
        let again = vec![0u64; HUGE];
        assert!(again.iter().all(|&zero| zero == 0));
    }
}
