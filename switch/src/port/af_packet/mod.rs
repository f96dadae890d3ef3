//! A packet socket with memory-mapped rings: any Linux interface, no driver support needed.
//!
//! ```text
//!   interface --> receive ring --copy--> slots --> switch
//!   interface <-- transmit ring <--copy-- slots <--
//! ```
//!
//! - The kernel's stack gets a copy of every frame, too. Where both serve one address the kernel's
//!   copies are stopped behind the packet sockets; that is the business of whoever opens the port.
//! - Frames come as they were on the wire: a VLAN tag that the kernel took out is put back, and a
//!   checksum that the sending end of a veth left to hardware is completed.
//! - What this machine itself sends on the interface is not received.
//! - TPACKET_V3 hands frames over in blocks, which costs the least per frame at high rates but holds
//!   a lone frame back for a millisecond; TPACKET_V2 hands each over at once. `docs/ports.md` has
//!   what was measured.

mod layout;
mod receive;
mod sys;
mod transmit;

use super::checksum::complete_checksum;
use super::{Burst, Port, PortCounters, PortInfo};
use crate::classify::Mac;
use crate::time::Time;
use core::cell::Cell;
use core::time::Duration;
use layout::{Received, RingRequest};
use receive::Reader;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use sys::{Rings, Socket};
use transmit::Writer;
use usnet_shmring::pool::{MIN_FRAME, Pool};

/// Which form of ring the kernel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RingVersion {
    /// TPACKET_V2: a frame at a time; lowest latency.
    #[default]
    V2,
    /// TPACKET_V3: a block at a time; lowest cost per frame at high rates.
    V3,
}

/// What to open.
#[derive(Clone, Debug)]
pub struct AfPacketSpec {
    /// Name of the interface, for people.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its link address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Form of the rings.
    pub ring: RingVersion,
    /// Frames in each ring, about; rounded to whole blocks.
    pub frames: u32,
    /// Hear frames for other link addresses too. Ends with the socket.
    pub promiscuous: bool,
    /// Send past the queueing discipline: faster, and unseen by other packet sockets here.
    pub bypass_qdisc: bool,
}

/// How often an idle port asks for an error that waits on the socket.
const ERROR_INTERVAL: Duration = Duration::from_millis(10);
/// How soon frames that the kernel had no room for are offered again.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// How long it may go on having none before they are given up, as a full network card would.
const GIVE_UP_AFTER: Duration = Duration::from_millis(20);

/// `struct packet_mreq` of `linux/if_packet.h`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Membership {
    index: i32,
    kind: u16,
    address_length: u16,
    address: [u8; 8],
}

/// Has interface `index` hear frames for other link addresses, too, until this is closed.
///
/// # Errors
/// What the kernel refused.
pub fn promiscuous(index: u32) -> io::Result<std::os::fd::OwnedFd> {
    let socket = Socket::open()?;
    hear_all(&socket, index)?;
    Ok(socket.into_fd())
}

fn hear_all(socket: &Socket, index: u32) -> io::Result<()> {
    let index = i32::try_from(index).unwrap_or(0);
    let kind = u16::try_from(libc::PACKET_MR_PROMISC).unwrap_or(0);
    let all = Membership { index, kind, address_length: 0, address: [0; 8] };
    socket.set(libc::PACKET_ADD_MEMBERSHIP, &all)
}

/// Has interface `index` hear what authenticators say to all (IEEE 802.1X, 11.1.1), for as long as the socket is there.
fn hear_authenticators(socket: &Socket, index: u32) -> io::Result<()> {
    let index = i32::try_from(index).unwrap_or(0);
    let kind = u16::try_from(libc::PACKET_MR_MULTICAST).unwrap_or(0);
    let address = [0x01, 0x80, 0xc2, 0, 0, 0x03, 0, 0];
    let group = Membership { index, kind, address_length: 6, address };
    socket.set(libc::PACKET_ADD_MEMBERSHIP, &group)
}

/// A packet socket without rings: each read is a frame of interface `index`, each write one to it.
///
/// # Errors
/// What the kernel refused.
#[cfg(feature = "netmap-double")]
pub fn bare_socket(index: u32) -> io::Result<std::os::fd::OwnedFd> {
    let socket = Socket::open()?;
    socket.set(libc::PACKET_IGNORE_OUTGOING, &1u32)?;
    socket.bind(index)?;
    Ok(socket.into_fd())
}

/// A port over a packet socket.
#[derive(Debug)]
pub struct AfPacket {
    info: PortInfo,
    index: u32,
    socket: Socket,
    rings: Rings,
    reader: Reader,
    writer: Writer,
    /// Since when the kernel has taken no frame that waits in the ring, and when it was last asked.
    stuck: Option<(Time, Time)>,
    last_error_check: Time,
    /// The link went down, and no frame has arrived since.
    was_down: bool,
    counters: PortCounters,
    /// The kernel's count of lost frames is reset when it is read.
    missed: Cell<u64>,
}

impl AfPacket {
    /// Opens a packet socket with both rings on an interface. Needs `CAP_NET_RAW` in the user
    /// namespace that owns the network namespace.
    ///
    /// # Errors
    /// What the kernel refused; the caller names the interface.
    pub fn open(spec: &AfPacketSpec) -> io::Result<Self> {
        let socket = Socket::open()?;
        let version: u32 = match spec.ring {
            RingVersion::V2 => 1,
            RingVersion::V3 => 2,
        };
        socket.set(libc::PACKET_VERSION, &version)?;
        socket.set(libc::PACKET_IGNORE_OUTGOING, &1u32)?;
        if spec.bypass_qdisc {
            socket.set(libc::PACKET_QDISC_BYPASS, &1u32)?;
        }
        let longest = usize::from(spec.mtu) + 14 + 8;
        let (rx, tx) = (rx_request(spec, longest), tx_request(spec, longest));
        match spec.ring {
            RingVersion::V2 => {
                let first =
                    |r: &RingRequest| [r.block_size, r.block_count, r.frame_size, r.frame_count];
                socket.set(libc::PACKET_RX_RING, &first(&rx))?;
                socket.set(libc::PACKET_TX_RING, &first(&tx))?;
            }
            RingVersion::V3 => {
                socket.set(libc::PACKET_RX_RING, &rx)?;
                socket.set(libc::PACKET_TX_RING, &tx)?;
            }
        }
        let rings = socket.map(&rx, &tx)?;
        socket.bind(spec.index)?;
        if spec.promiscuous {
            hear_all(&socket, spec.index)?;
        }
        hear_authenticators(&socket, spec.index)?;
        Ok(Self {
            index: spec.index,
            info: PortInfo {
                name: spec.name.clone(),
                backend: "af_packet",
                mac: spec.mac,
                mtu: spec.mtu,
            },
            rings,
            reader: Reader::new(spec.ring, rx),
            writer: Writer::new(spec.ring, tx, rx.size()),
            socket,
            stuck: None,
            last_error_check: Time(0),
            was_down: false,
            counters: PortCounters::default(),
            missed: Cell::new(0),
        })
    }

    /// Opens several sockets among which the kernel divides what arrives, so that the frames of a flow,
    /// in both directions, come to one; each is a port of its own. Needs Linux 5.18 for more than one.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_group(spec: &AfPacketSpec, count: usize) -> io::Result<Vec<Self>> {
        let mut group = Vec::with_capacity(count);
        let mut number = None;
        for _ in 0..count {
            let port = Self::open(spec)?;
            if count > 1 {
                number = Some(port.join(number)?);
            }
            group.push(port);
        }
        // Before the last one joined, some frames came to more than one.
        group.iter_mut().for_each(Self::discard);
        Ok(group)
    }

    /// Has the kernel show only what all hosts of a link may need to hear: what is not IP, what is for a group or
    /// a link-local address, ICMPv6, and answers of DHCP.
    ///
    /// # Errors
    /// The kernel refuses the filter.
    pub fn hear_little(&self) -> io::Result<()> {
        const LOAD_HALF: u16 = 0x28;
        const LOAD_BYTE: u16 = 0x30;
        const EQUAL: u16 = 0x15;
        const AT_LEAST: u16 = 0x35;
        const ANY_OF_BITS: u16 = 0x45;
        const RETURN: u16 = 0x06;
        // Jumps count from the next instruction.
        let filter = [
            (LOAD_HALF, 0, 0, 12),
            (EQUAL, 0, 10, 0x0800),
            (LOAD_BYTE, 0, 0, 30),
            (AT_LEAST, 13, 0, 224),
            // Without options, UDP, whole, to port 68.
            (LOAD_BYTE, 0, 0, 14),
            (EQUAL, 0, 12, 0x45),
            (LOAD_BYTE, 0, 0, 23),
            (EQUAL, 0, 10, 17),
            (LOAD_HALF, 0, 0, 20),
            (ANY_OF_BITS, 8, 0, 0xbfff),
            (LOAD_HALF, 0, 0, 36),
            (EQUAL, 5, 6, 68),
            (EQUAL, 0, 4, 0x86dd),
            (LOAD_BYTE, 0, 0, 38),
            (AT_LEAST, 2, 0, 0xfe),
            (LOAD_BYTE, 0, 0, 20),
            (EQUAL, 0, 1, 58),
            (RETURN, 0, 0, u32::MAX),
            (RETURN, 0, 0, 0),
        ];
        let mut filter = filter.map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k });
        self.socket.set_filter(&mut filter)
    }

    /// Joins a group of sockets, or founds one; returns its number.
    fn join(&self, group: Option<u16>) -> io::Result<u16> {
        /// `PACKET_FANOUT_FLAG_IGNORE_OUTGOING` of `linux/if_packet.h`.
        const IGNORE_OUTGOING: u32 = 0x4000;
        /// `PACKET_FANOUT_FLAG_UNIQUEID`: the kernel chooses the number.
        const UNIQUE: u32 = 0x2000;
        let kind = libc::PACKET_FANOUT_HASH | IGNORE_OUTGOING;
        let kind = if group.is_none() { kind | UNIQUE } else { kind };
        let wish = u32::from(group.unwrap_or(0)) | kind << 16;
        self.socket.set(libc::PACKET_FANOUT, &wish)?;
        let [number, ..]: [u16; 2] = self.socket.get(libc::PACKET_FANOUT)?;
        Ok(number)
    }

    /// Gives everything back that has arrived; at most one ring's worth.
    fn discard(&mut self) {
        for _ in 0..self.reader.frames() {
            if self.reader.peek(&self.rings).is_none() {
                break;
            }
            self.reader.advance(&self.rings);
        }
    }

    /// Makes the kernel send what waits in the ring.
    fn kick(&mut self, now: Time) -> io::Result<()> {
        // Again only for a frame that was refused and taken out, so this ends.
        loop {
            let error = match self.socket.kick() {
                Ok(()) => {
                    self.stuck = None;
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::MSGSIZE | Errno::INVAL) => {
                    let before = self.writer.refused;
                    self.writer.reclaim(&mut self.rings);
                    if self.writer.refused == before {
                        return Err(error);
                    }
                }
                // No room now, or nobody at the other end. The frames wait in the ring.
                Some(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {
                    let since = self.stuck.map_or(now, |(since, _)| since);
                    self.stuck = Some((since, now));
                    if now.since(since) >= GIVE_UP_AFTER {
                        self.abandon();
                    }
                    return Ok(());
                }
                Some(Errno::NETDOWN) => {
                    self.abandon();
                    return Ok(());
                }
                _ => return Err(error),
            }
        }
    }

    fn abandon(&mut self) {
        self.writer.abandon(&mut self.rings);
        self.stuck = None;
    }

    /// Reads, and so clears, an error that would keep the descriptor readable for ever. A link that
    /// went down may come back; one that was removed does not.
    fn check_error(&mut self, now: Time) -> io::Result<()> {
        if now.since(self.last_error_check) < ERROR_INTERVAL {
            return Ok(());
        }
        self.last_error_check = now;
        match rustix::net::sockopt::socket_error(&self.socket)? {
            Ok(()) => {}
            Err(Errno::NETDOWN) => self.was_down = true,
            Err(errno) => return Err(errno.into()),
        }
        if self.was_down {
            // Also when the error was read before: one that is removed goes down first, and the kernel
            // says nothing more when it is gone.
            rustix::net::netdevice::index_to_name(&self.socket, self.index)?;
        }
        Ok(())
    }

    /// Copies one received frame into a slot. `None` if it cannot be delivered, which is counted.
    fn take(
        rings: &Rings,
        counters: &mut PortCounters,
        seen: &Received,
        pool: &mut Pool,
    ) -> Option<usnet_shmring::pool::Frame> {
        let tag = seen.tag();
        let stripped = seen.snaplen as usize;
        let Some(bytes) = rings
            .bytes(seen.at, stripped)
            .filter(|b| !seen.is_cut() && b.len() >= usize::from(MIN_FRAME))
        else {
            counters.receive_errors += 1;
            return None;
        };
        let length = stripped + tag.map_or(0, |t| t.len());
        let Some(mut frame) = pool.alloc() else {
            counters.no_slot += 1;
            return None;
        };
        let fits = u16::try_from(length).is_ok_and(|length| pool.set_window(&mut frame, 0, length));
        let (addresses, rest) = bytes.split_at(12.min(bytes.len()));
        let into = pool.bytes_mut(&mut frame);
        let (head, tail) = into.split_at_mut(12.min(into.len()));
        let tail = match (tag, fits) {
            (Some(tag), true) => {
                let (place, tail) = tail.split_at_mut(4.min(tail.len()));
                place.copy_from_slice(&tag);
                tail
            }
            _ => tail,
        };
        if !fits || tail.len() != rest.len() {
            counters.receive_errors += 1;
            pool.free(frame);
            return None;
        }
        head.copy_from_slice(addresses);
        tail.copy_from_slice(rest);
        if seen.needs_checksum() {
            complete_checksum(pool.bytes_mut(&mut frame));
        }
        counters.received += 1;
        counters.received_bytes += length as u64;
        Some(frame)
    }
}

/// A power of two of bytes that holds a frame of `longest` bytes behind the kernel's headers.
fn ring_frame(longest: usize) -> u32 {
    // Header, `sockaddr_ll`, alignment and the link header's own alignment stay below 128 bytes.
    u32::try_from((longest + 128).next_power_of_two()).unwrap_or(1 << 17)
}

fn rx_request(spec: &AfPacketSpec, longest: usize) -> RingRequest {
    let frame_size = ring_frame(longest);
    let frames = spec.frames.clamp(64, 1 << 16);
    let block_size = (64 << 10).max(frame_size);
    let block_count = (frames.saturating_mul(frame_size) / block_size).max(4);
    RingRequest {
        block_size,
        block_count,
        frame_size,
        frame_count: block_count * (block_size / frame_size),
        retire_ms: u32::from(spec.ring == RingVersion::V3),
        ..RingRequest::default()
    }
}

fn tx_request(spec: &AfPacketSpec, longest: usize) -> RingRequest {
    let frame_size = ring_frame(Writer::frame_size(spec.ring, longest));
    let request = rx_request(spec, longest);
    let block_size = (64 << 10).max(frame_size);
    RingRequest {
        block_size,
        frame_size,
        frame_count: request.block_count * (block_size / frame_size),
        // The kernel wants these zero for a transmit ring.
        retire_ms: 0,
        ..request
    }
}

impl Port for AfPacket {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn receive(&mut self, now: Time, pool: &mut Pool, into: &mut Burst) -> io::Result<usize> {
        if let Some((_, asked)) = self.stuck
            && now.since(asked) >= RETRY_INTERVAL
        {
            self.kick(now)?;
        }
        let mut count = 0;
        // Bounded also if every frame is refused: one ring's worth is not walked in one call.
        for _ in 0..super::BURST {
            if into.room() == 0 {
                break;
            }
            let Some(seen) = self.reader.peek(&self.rings) else { break };
            let frame = Self::take(&self.rings, &mut self.counters, &seen, pool);
            self.reader.advance(&self.rings);
            if let Some(frame) = frame {
                match into.push(frame) {
                    Ok(()) => count += 1,
                    Err(frame) => pool.free(frame),
                }
            }
        }
        if count == 0 {
            self.check_error(now)?;
        } else {
            self.was_down = false;
        }
        Ok(count)
    }

    fn transmit(&mut self, now: Time, pool: &mut Pool, from: &mut Burst) -> io::Result<usize> {
        let longest = usize::from(self.info.mtu) + 14 + 8;
        self.writer.reclaim(&mut self.rings);
        let mut count = 0;
        while let Some(frame) = from.pop() {
            let bytes = pool.bytes(&frame);
            if bytes.len() > longest || bytes.len() < usize::from(MIN_FRAME) {
                self.counters.transmit_errors += 1;
            } else if self.writer.push(&mut self.rings, bytes) {
                self.counters.transmitted += 1;
                self.counters.transmitted_bytes += bytes.len() as u64;
            } else {
                from.put_back(frame);
                break;
            }
            pool.free(frame);
            count += 1;
        }
        if count > 0 || self.stuck.is_some() {
            self.kick(now)?;
        }
        Ok(count)
    }

    fn counters(&self) -> PortCounters {
        /// `struct tpacket_stats_v3`; the first two words are `struct tpacket_stats`.
        type Statistics = [u32; 3];
        if let Ok([_, drops, _]) = self.socket.get::<Statistics>(libc::PACKET_STATISTICS) {
            self.missed.set(self.missed.get() + u64::from(drops));
        }
        let refused = self.writer.refused;
        PortCounters {
            missed: self.missed.get(),
            transmit_errors: self.counters.transmit_errors + refused.frames,
            transmitted: self.counters.transmitted - refused.frames,
            transmitted_bytes: self.counters.transmitted_bytes - refused.bytes,
            ..self.counters
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn next_event(&self) -> Option<Time> {
        self.stuck.map(|(_, asked)| asked + RETRY_INTERVAL)
    }
}
