//! Asking the processor for lines before they are used.

#![expect(unsafe_code, reason = "instructions without a safe name; hints that touch nothing")]

/// Fetches the line at `at`, to be read. Never faults, whatever the address.
#[inline]
pub(crate) fn to_read(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch is a hint and has no effect on memory, whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch(at.cast(), core::arch::x86_64::_MM_HINT_T0);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}

/// Fetches the line at `at` from whichever processor has it, to be written. Never faults, whatever the
/// address.
#[inline]
pub(crate) fn to_write(at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: as above; processors that do not know the instruction take it for none.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}
