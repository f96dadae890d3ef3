//! Copies out of and into memory that another process may be using at this moment.
//!
//! A `&[u8]` over such memory would be undefined behaviour, and an ordinary copy a data race that
//! the compiler may split, repeat or assume away. On x86-64 the loads are instructions that the
//! compiler cannot see into; elsewhere, and under Miri, they are relaxed atomic bytes.

#![expect(unsafe_code, reason = "loads from memory that a peer writes")]

/// Copies `into.len()` bytes from `from`. Each source byte is loaded at most once or, at the seam of
/// two vector loads, twice with either value: callers check the copy, never the source.
///
/// # Safety
/// `from..from + into.len()` must be mapped and readable for the whole call. It may be written by
/// other processes meanwhile.
#[inline]
pub unsafe fn copy_racy(from: *const u8, into: &mut [u8]) {
    // SAFETY: `from` is the caller's promise; `into` is ours to write, and nothing else is there.
    unsafe { copy(from, into.as_mut_ptr(), into.len()) };
}

/// Copies all of `from` to `into`, which others may read and write meanwhile.
///
/// # Safety
/// `into..into + from.len()` must be mapped and writable for the whole call, and not overlap `from`.
#[inline]
pub unsafe fn write_racy(from: &[u8], into: *mut u8) {
    // SAFETY: `into` is the caller's promise; `from` is ours to read.
    unsafe { copy(from.as_ptr(), into, from.len()) };
}

/// # Safety
/// Both ranges must be mapped for the whole call and not overlap; what is not shared of them must be
/// the caller's to read or write.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if (16..512).contains(&len) {
        // SAFETY: moves 16 bytes at a time while whole ones remain, then the last 16 bytes once
        // more from the end: every access lies in `0..len` of both ranges, since `len >= 16`.
        unsafe {
            core::arch::asm!(
                "2:",
                "movdqu {x}, [{from} + {at}]",
                "movdqu [{to} + {at}], {x}",
                "add {at}, 16",
                "cmp {at}, {last}",
                "jb 2b",
                "movdqu {x}, [{from} + {last}]",
                "movdqu [{to} + {last}], {x}",
                x = out(xmm_reg) _,
                from = in(reg) from,
                to = in(reg) to,
                at = inout(reg) 0usize => _,
                last = in(reg) len - 16,
                options(nostack),
            );
        }
    } else {
        // SAFETY: reads `len` bytes at `from` and writes `len` bytes at `to`, which the caller
        // promised. The direction flag is clear by the ABI.
        unsafe {
            core::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _,
                inout("rdi") to => _, options(nostack, preserves_flags));
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for offset in 0..len {
        use core::sync::atomic::{AtomicU8, Ordering};
        // SAFETY: in range by the caller's promise; an atomic byte has no alignment to keep, and the
        // cast of `from` only loads.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(offset).cast_mut()).load(Ordering::Relaxed);
            AtomicU8::from_ptr(to.add(offset)).store(byte, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_is_copied_exactly() {
        let source: Vec<u8> = (0..1200u32).map(|i| (i * 7 % 251) as u8).collect();
        let most = if cfg!(miri) { 33 } else { 130 };
        let lengths = (0..=most).chain([255, 256, 257, 511, 512, 513, 1024]);
        for length in lengths {
            for offset in [0, 1, 7, 15] {
                let mut into = vec![0xee; length + 2];
                // SAFETY: `offset + length` is less than the source's 1,200 bytes.
                unsafe { copy_racy(source.as_ptr().add(offset), &mut into[1..=length]) };
                assert_eq!(into[1..=length], source[offset..offset + length]);
                assert_eq!((into[0], into[length + 1]), (0xee, 0xee), "wrote outside");
            }
        }
    }
}
