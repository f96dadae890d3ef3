//! Binds threads to processors, and says so when that is not possible.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Binds the calling thread to processor `cpu`. Children inherit it.
///
/// # Errors
/// Why not, for a person: the processor does not exist, or the process may not use it.
pub fn pin(cpu: usize) -> Result<(), String> {
    let allowed = sched_getaffinity(None).ok();
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("there is no processor {cpu}"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| {
        let count = allowed.map_or(0, |set| set.count());
        format!("cannot use processor {cpu} ({error}; {count} allowed): numbers will be poor")
    })
}

/// Binds the calling thread, or warns on standard error.
pub fn pin_or_warn(cpu: usize, who: &str) -> bool {
    match pin(cpu) {
        Ok(()) => true,
        Err(reason) => {
            eprintln!("usnet-bench: {who}: {reason}");
            false
        }
    }
}
