//! XDP sockets: the daemon's slots as the kernel's buffers, on any Linux interface, without a module.
//!
//! ```text
//!   interface --> XDP program --+--> fill ring: free slots      rx ring: slots with frames --> switch
//!                               |
//!                               +--> XDP_PASS: what the kernel hears by itself
//!   interface <-- tx ring: slots with frames    completion ring: free slots <-- switch
//!
//!   asm      instructions of BPF          program  which frames the switch gets; firewall: strictly;
//!                                         watch: which answers the kernel waits for
//!   bpf      maps, programs, links        sys      bpf(2), and rings in shared memory
//!   umem     slots that the kernel has    rings    one ring; queue: a socket and its four
//!   receive  rx ring to pool              port     a worker's queues of an interface; open: all of them
//! ```
//!
//! - The kernel gets slots of the port segment only, and the private list of what it has is what counts.
//! - The program, its maps and the rings end with their descriptors: after a `kill -9` the kernel has its
//!   frames back at once.
//!
//! `linux/if_xdp.h` and `linux/bpf.h` are what all of this is written after.

mod asm;
mod bpf;
mod firewall;
mod open;
mod port;
mod program;
mod queue;
mod receive;
mod rings;
mod sys;
mod umem;
mod watch;

pub use open::{AfXdpSpec, KernelPorts};
pub use port::AfXdp;
pub use queue::BusyPoll;

#[cfg(test)]
mod tests;
