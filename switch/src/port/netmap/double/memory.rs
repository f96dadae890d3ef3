//! The memory of a region, as the kernel sees it.

#![expect(unsafe_code, reason = "the double's view of memory that a port writes too")]
