//! What the switch says to whoever sends to a port that nobody has: a TCP reset, or "port unreachable".
//!
//! ```text
//!   whole, sound, from one host to one of ours, nobody's --TCP-------------> RST      (RFC 9293, 3.10.7.1)
//!                                                      +--other with ports-> ICMP 3/3 (RFC 1122, 3.2.2.1)
//!                                                                            ICMPv6 1/4 (RFC 4443, 3.1)
//! ```
//!
//! - Never about an error, a reset, a piece of a datagram, or what went to or came from a group (RFC 1122,
//!   3.2.2; RFC 4443, 2.4): so two switches never answer each other's answers.
//! - Never about what cannot be believed: a wrong checksum, an address of our own as the sender.
//! - At most [`BURST`] at once, and [`RATE`] in a second: what is over is dropped and counted.

use crate::answer::icmpv6_checksum;
use crate::classify::{Classified, Flow, Fragment, IpKind, IpPacket, Mac, Payload, Protocol};
use crate::config::Unmatched;
use crate::port::checksum::{internet_checksum, pseudo_sum, transport_checksum};
use crate::time::Time;
use core::time::Duration;
use usnet_shmring::offload::{Checksum, Offload};

/// Answers in a second, of one interface of one worker; as Linux has it for all ICMP (`icmp_msgs_per_sec`).
pub(crate) const RATE: u32 = 1000;
/// Answers at once; as Linux has it (`icmp_msgs_burst`).
pub(crate) const BURST: u32 = 50;

const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / RATE as u64);

/// A bucket of tokens, [`BURST`] when full; one comes back every `INTERVAL`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// When it is full again.
    full: Time,
}

impl Bucket {
    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        let full = self.full.max(now);
        let has = full.since(now) <= INTERVAL * (BURST - 1);
        if has {
            self.full = full + INTERVAL;
        }
        has
    }
}

const LINK: usize = 14;
const V4: usize = 20;
const V6: usize = 40;
/// Most bytes of an ICMP error's IP packet (RFC 1812, 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Most bytes of an ICMPv6 error's IP packet: what every link carries (RFC 4443, 2.4).
const LONGEST_V6: usize = 1280;
/// Most bytes of an answer's frame.
pub(crate) const LONGEST: usize = LINK + LONGEST_V6;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Writes the answer to a frame that nobody receives, at most `limit` bytes; returns its length. `None`: it is to be
/// ignored.
pub(crate) fn refusal(
    unmatched: Unmatched,
    seen: &Classified,
    frame: &[u8],
    offload: Offload,
    limit: usize,
    answer: &mut [u8; LONGEST],
) -> Option<usize> {
    let Payload::Ip(packet) = &seen.payload else { return None };
    let flow = &packet.flow;
    let is_plain = packet.kind == IpKind::Plain && packet.fragment == Fragment::Whole;
    let from_nobody = flow.source.to_ip().is_unspecified();
    if !is_plain || !flow.ports_known || from_nobody || seen.vlan.is_some() {
        return None;
    }
    if offload.checksum() == Checksum::There && !is_sound(frame, packet) {
        return None;
    }
    let length = match (unmatched, flow.protocol) {
        (Unmatched::Drop, _) => return None,
        (_, Protocol::TCP) => reset(packet, frame, answer)?,
        (Unmatched::Reset, _) => return None,
        (Unmatched::Unreachable, _) => unreachable(packet, frame, limit, answer)?,
    };
    let kind: &[u8; 2] = if flow.source.v4_part().is_some() { &[8, 0] } else { &[0x86, 0xdd] };
    put(answer, 0, &seen.source.0)?;
    put(answer, 6, &seen.destination.0)?;
    put(answer, 12, kind)?;
    Some(length)
}

/// Whether the checksums that are there are right.
fn is_sound(frame: &[u8], packet: &IpPacket) -> bool {
    let (network, transport) =
        (usize::from(packet.network_offset), usize::from(packet.transport_offset));
    let is_v4 = packet.flow.source.v4_part().is_some();
    let Some(header) = frame.get(network..transport) else { return false };
    let Some(body) = frame.get(transport..usize::from(packet.end)) else { return false };
    if is_v4 && internet_checksum(header) != 0 {
        return false;
    }
    match packet.flow.protocol {
        // None was made (RFC 768).
        Protocol::UDP if is_v4 && body.get(6..8) == Some(&[0, 0]) => true,
        Protocol::TCP | Protocol::UDP => {
            let pseudo = pseudo_sum(&packet.flow, body.len());
            u32::from(internet_checksum(body)) % 0xffff == u32::from(pseudo) % 0xffff
        }
        _ => true,
    }
}

/// A reset that the sender of this segment believes.
fn reset(packet: &IpPacket, frame: &[u8], answer: &mut [u8; LONGEST]) -> Option<usize> {
    let segment = frame.get(packet.transport_offset.into()..packet.end.into())?;
    let (offset, flags) = (*segment.get(12)?, *segment.get(13)?);
    if flags & RST != 0 {
        return None;
    }
    let (sequence, acknowledged) = (segment.get(4..8)?, segment.get(8..12)?);
    let back = packet.flow.reversed();
    let at = ip(&back, 20, answer)?;
    put(answer, at, &back.source_port.to_be_bytes())?;
    put(answer, at + 2, &back.destination_port.to_be_bytes())?;
    if flags & ACK != 0 {
        put(answer, at + 4, acknowledged)?;
        put(answer, at + 12, &[0x50, RST])?;
    } else {
        let payload = segment.len().checked_sub(usize::from(offset >> 4) * 4)?;
        let length = u32::try_from(payload).ok()?
            + u32::from(flags & SYN != 0)
            + u32::from(flags & FIN != 0);
        let sequence = u32::from_be_bytes(sequence.try_into().ok()?);
        put(answer, at + 8, &sequence.wrapping_add(length).to_be_bytes())?;
        put(answer, at + 12, &[0x50, RST | ACK])?;
    }
    transport_checksum(&back, answer.get_mut(at..at + 20)?).then_some((at + 20).max(60))
}

/// "Port unreachable", about this packet.
fn unreachable(
    packet: &IpPacket,
    frame: &[u8],
    limit: usize,
    answer: &mut [u8; LONGEST],
) -> Option<usize> {
    const HEADER: usize = 8;
    let back = packet.flow.reversed();
    let about = frame.get(packet.network_offset.into()..packet.end.into())?;
    let is_v4 = back.source.v4_part().is_some();
    let (before, most, kind) =
        if is_v4 { (V4, LONGEST_V4, [3, 3]) } else { (V6, LONGEST_V6, [1, 4]) };
    let room = most.min(limit.checked_sub(LINK)?).checked_sub(before + HEADER)?;
    let about = about.get(..room).unwrap_or(about);
    let protocol = if is_v4 { Protocol::ICMP } else { Protocol::ICMPV6 };
    let at = ip(&Flow { protocol, ..back }, HEADER + about.len(), answer)?;
    let end = at + HEADER + about.len();
    put(answer, at, &kind)?;
    put(answer, at + HEADER, about)?;
    let sum = if is_v4 {
        internet_checksum(answer.get(at..end)?)
    } else {
        icmpv6_checksum(answer.get(..end)?)
    };
    put(answer, at + 2, &sum.to_be_bytes())?;
    Some(end.max(60))
}

/// Writes an IP header for this much behind it; returns where it ends.
fn ip(flow: &Flow, body: usize, answer: &mut [u8; LONGEST]) -> Option<usize> {
    answer.fill(0);
    if let (Some(source), Some(destination)) = (flow.source.v4_part(), flow.destination.v4_part()) {
        let total = u16::try_from(V4 + body).ok()?.to_be_bytes();
        put(answer, LINK, &[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, flow.protocol.0])?;
        put(answer, LINK + 12, &source)?;
        put(answer, LINK + 16, &destination)?;
        let sum = internet_checksum(answer.get(LINK..LINK + V4)?);
        put(answer, LINK + 10, &sum.to_be_bytes())?;
        return Some(LINK + V4);
    }
    let [high, low] = u16::try_from(body).ok()?.to_be_bytes();
    put(answer, LINK, &[0x60, 0, 0, 0, high, low, flow.protocol.0, 64])?;
    put(answer, LINK + 8, &flow.source.0)?;
    put(answer, LINK + 24, &flow.destination.0)?;
    Some(LINK + V6)
}

fn put(answer: &mut [u8; LONGEST], at: usize, bytes: &[u8]) -> Option<()> {
    answer.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    Some(())
}

/// Whether an answer to this frame may go where the frame says that it came from.
pub(crate) fn is_elsewhere(seen: &Classified, mac: Mac) -> bool {
    seen.source != mac && !seen.source.is_group() && seen.destination == mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_fifty_at_once_and_a_thousand_a_second() {
        let mut bucket = Bucket::default();
        let taken = |bucket: &mut Bucket, now| (0..5000).filter(|_| bucket.take(now)).count();
        let start = Time(7_000_000_000);
        assert_eq!(taken(&mut bucket, start), 50);
        let millisecond = Duration::from_millis(1);
        assert_eq!(taken(&mut bucket, start + millisecond), 1);
        let rest = (2..=1001).map(|n| taken(&mut bucket, start + millisecond * n)).sum::<usize>();
        assert_eq!(rest, 1000);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(100)), 50, "and no more");
    }
}
