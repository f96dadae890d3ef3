//! The double of netmap behaves as the kernel module was seen to behave. Driven through the seam
//! alone, with offsets written out by hand; a region is read and written through its descriptor.

use core::time::Duration;
use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use usnet_switch::port::netmap::abi::{ExtMem, PoolsInfo, PortInfo, Register, flag, mode};
use usnet_switch::port::netmap::double::{
    Completion, Double, Generator, MachineSpec, Medium, NicSpec, Overflow, Pools, QueueMedium,
    Quirk, VethSpec, queue_pair,
};
use usnet_switch::port::netmap::{Control, Device, Direction, Kernel};

mod memory;
mod ports;
mod rings;

const BUF_CHANGED: u16 = 1;
const MOREFRAG: u16 = 0x20;

/// A bound device, and its region as bytes of a file.
struct Port {
    device: Box<dyn Device>,
    body: Register,
    file: OwnedFd,
}

fn register(double: &Double, name: &str, mut body: Register) -> Result<Port, Errno> {
    let device = double.open().unwrap();
    let request = Control::Register { body: &mut body, extmem: None, offsets: None };
    device.control(name, request).map_err(|error| errno(&error))?;
    let file = device.memory().try_clone_to_owned().unwrap();
    Ok(Port { device, body, file })
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}

fn open(double: &Double, name: &str, mode: u32) -> Port {
    register(double, name, Register { mode, ..Register::default() }).unwrap()
}

/// One ring of a port, by where it lies.
#[derive(Clone, Copy)]
struct Ring {
    at: u64,
}

impl Port {
    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(rustix::io::pread(&self.file, &mut bytes, at), Ok(N));
        bytes
    }

    fn word(&self, at: u64) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    fn set_word(&self, at: u64, value: u32) {
        assert_eq!(rustix::io::pwrite(&self.file, &value.to_ne_bytes(), at), Ok(4));
    }

    /// The table's entry, relative to the port's description.
    fn entry(&self, number: u64) -> i64 {
        i64::from_ne_bytes(self.bytes(self.body.offset + 56 + number * 8))
    }

    fn ring(&self, number: u64) -> Ring {
        let offset = self.entry(number);
        assert_ne!(offset, 0, "ring {number} is not bound");
        Ring { at: self.body.offset.checked_add_signed(offset).unwrap() }
    }

    fn positions(&self, ring: Ring) -> (u32, u32, u32) {
        (self.word(ring.at + 20), self.word(ring.at + 24), self.word(ring.at + 28))
    }

    /// Moves head and cur.
    fn advance(&self, ring: Ring, head: u32) {
        self.set_word(ring.at + 20, head);
        self.set_word(ring.at + 24, head);
    }

    /// Buffer, length, flags.
    fn slot(&self, ring: Ring, number: u64) -> (u32, u16, u16) {
        let at = ring.at + 256 + number * 16;
        (self.word(at), self.short(at + 4), self.short(at + 6))
    }

    fn short(&self, at: u64) -> u16 {
        u16::from_ne_bytes(self.bytes(at))
    }

    fn set_slot(&self, ring: Ring, number: u64, buffer: u32, length: u16, flags: u16) {
        let at = ring.at + 256 + number * 16;
        self.set_word(at, buffer);
        assert_eq!(rustix::io::pwrite(&self.file, &length.to_ne_bytes(), at + 4), Ok(2));
        assert_eq!(rustix::io::pwrite(&self.file, &flags.to_ne_bytes(), at + 6), Ok(2));
    }

    fn buffer_at(&self, ring: Ring, buffer: u32) -> u64 {
        let offset = i64::from_ne_bytes(self.bytes(ring.at));
        ring.at.checked_add_signed(offset).unwrap() + u64::from(buffer) * 2048
    }

    fn frame(&self, ring: Ring, number: u64) -> Vec<u8> {
        let (buffer, length, _) = self.slot(ring, number);
        let mut bytes = vec![0; usize::from(length)];
        let at = self.buffer_at(ring, buffer);
        assert_eq!(rustix::io::pread(&self.file, &mut bytes, at), Ok(bytes.len()));
        bytes
    }

    fn put(&self, ring: Ring, number: u64, frame: &[u8], flags: u16) {
        let (buffer, _, _) = self.slot(ring, number);
        let at = self.buffer_at(ring, buffer);
        assert_eq!(rustix::io::pwrite(&self.file, frame, at), Ok(frame.len()));
        self.set_slot(ring, number, buffer, u16::try_from(frame.len()).unwrap(), flags);
    }

    fn sync(&self, direction: Direction) {
        self.device.sync(direction).unwrap();
    }

    fn is_ready(&self) -> bool {
        is_readable(self.device.readiness())
    }
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

fn frame(tag: u8) -> Vec<u8> {
    vec![tag; 60]
}

fn next(medium: &mut QueueMedium) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let length = medium.receive(&mut bytes)?;
    bytes.truncate(length);
    Some(bytes)
}

/// A machine with one interface, and the far ends of its wire and of its host.
fn machine(change: impl FnOnce(&mut NicSpec)) -> (Double, QueueMedium, QueueMedium) {
    let double = Double::new().unwrap();
    let (wire, far) = queue_pair(1024).unwrap();
    let (host, stack) = queue_pair(1024).unwrap();
    let mut spec = NicSpec::new("eth0", Box::new(wire)).with_host(Box::new(host));
    change(&mut spec);
    double.add_nic(spec).unwrap();
    (double, far, stack)
}
