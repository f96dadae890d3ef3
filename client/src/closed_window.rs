//! Acknowledgements out of segments that smoltcp drops whole, because it has no room for their data.
//!
//! ```text
//!   tx   segment with window 0, acknowledging N  -> remember (flow, N)      any other of that flow -> forget
//!   rx   segment of such a flow -> 1. the same without data, at N: smoltcp takes its acknowledgement
//!                                  2. the segment itself: smoltcp answers, and drops it
//! ```
//!
//! RFC 9293, 3.10.7.4: "If the RCV.WND is zero, no segments will be acceptable, but special allowance should be made to
//! accept valid ACKs". smoltcp 0.14 makes none. A peer that has sent up to an edge which its window scale then moved
//! back by some bytes sends all that it says from beyond that edge. If each side waits for the other to read, a
//! connection would stand still for ever.

use crate::checksum::{LINK, TCP, find};
use smoltcp::wire::{IpAddress, IpEndpoint, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Flows that are remembered; of more the oldest are forgotten.
const MOST: usize = 64;
/// How far behind the edge a segment may begin: what was under way when the window closed.
const FAR: i32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    local: IpEndpoint,
    remote: IpEndpoint,
}

#[derive(Debug)]
struct Closed {
    flow: Flow,
    /// The next byte that is wanted; there is no room for it.
    edge: TcpSeqNumber,
    /// What was acknowledged last in this way: the same again would count as a duplicate, and as a sign of loss.
    acknowledged: Option<TcpSeqNumber>,
}

/// Connections whose last segment has shown a window of nothing.
#[derive(Debug, Default)]
pub(crate) struct ClosedWindows {
    flows: Vec<Closed>,
    /// Where the next one goes when all places are taken.
    next: usize,
}

/// A frame's TCP segment, where it begins, and between whom it goes; `None` if it is no whole TCP segment.
fn segment(frame: &[u8]) -> Option<(IpAddress, IpAddress, usize, TcpPacket<&[u8]>)> {
    let found = find(frame).filter(|found| found.protocol == TCP)?;
    let (from, to) = found.addresses.split_at(found.addresses.len() / 2);
    let address = |bytes: &[u8]| match bytes.len() {
        4 => Some(IpAddress::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        _ => Some(IpAddress::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
    };
    Some((address(from)?, address(to)?, found.begin, TcpPacket::new_checked(found.packet).ok()?))
}

impl ClosedWindows {
    /// Whether [`without_data`](Self::without_data) would return nothing of any frame.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Looks at a frame that smoltcp sends.
    #[inline]
    pub(crate) fn sent(&mut self, frame: &[u8]) {
        // The window of a segment behind 20 or 40 bytes of IP; of anything else these bytes say nothing, and
        // what they say is looked at again.
        let window = match frame.get(12..LINK) {
            Some([0x08, 0x00]) => frame.get(48..50),
            _ => frame.get(68..70),
        };
        if !self.flows.is_empty() || window == Some(&[0, 0]) {
            self.look(frame);
        }
    }

    #[cold]
    fn look(&mut self, frame: &[u8]) {
        let Some((from, to, _, tcp)) = segment(frame) else { return };
        let local = IpEndpoint::new(from, tcp.src_port());
        let flow = Flow { local, remote: IpEndpoint::new(to, tcp.dst_port()) };
        let is_closed = tcp.window_len() == 0 && tcp.ack() && !tcp.syn() && !tcp.rst();
        let edge = tcp.ack_number();
        match (is_closed, self.flows.iter().position(|closed| closed.flow == flow)) {
            (true, Some(at)) => {
                if let Some(closed) = self.flows.get_mut(at) {
                    closed.edge = edge;
                }
            }
            (true, None) => {
                let closed = Closed { flow, edge, acknowledged: None };
                if self.flows.len() < MOST {
                    self.flows.push(closed);
                } else if let Some(oldest) = self.flows.get_mut(self.next) {
                    *oldest = closed;
                    self.next = (self.next + 1) % MOST;
                }
            }
            (false, Some(at)) => {
                self.flows.swap_remove(at);
            }
            (false, None) => {}
        }
    }

    /// If smoltcp would drop the received frame for want of room, and with it what it acknowledges: makes it a
    /// segment without data that smoltcp takes. Returns its length. Only for frames whose checksums are right.
    #[cold]
    pub(crate) fn without_data(&mut self, frame: &mut [u8]) -> Option<usize> {
        let (from, to, header, tcp) = segment(frame)?;
        let local = IpEndpoint::new(to, tcp.dst_port());
        let flow = Flow { local, remote: IpEndpoint::new(from, tcp.src_port()) };
        let closed = self.flows.iter_mut().find(|closed| closed.flow == flow)?;
        let length = usize::from(tcp.header_len());
        let is_plain = tcp.ack() && !tcp.syn() && !tcp.rst();
        let edge = closed.edge;
        let is_taken = tcp.payload().is_empty() && !tcp.fin() && tcp.seq_number() == edge;
        // A probe lies one byte before the edge.
        let ahead = tcp.seq_number().0.wrapping_sub(edge.0);
        let is_known = closed.acknowledged == Some(tcp.ack_number());
        if !is_plain || is_taken || is_known || !(-1..FAR).contains(&ahead) {
            return None;
        }
        closed.acknowledged = Some(tcp.ack_number());
        let end = header + length;
        let frame = frame.get_mut(..end)?;
        let packet = frame.get_mut(LINK..)?;
        match from {
            IpAddress::Ipv4(_) => {
                let mut ip = Ipv4Packet::new_unchecked(packet);
                ip.set_total_len(u16::try_from(end - LINK).ok()?);
                ip.fill_checksum();
            }
            IpAddress::Ipv6(_) => {
                let mut ip = Ipv6Packet::new_unchecked(packet);
                ip.set_payload_len(u16::try_from(length).ok()?);
            }
        }
        let mut tcp = TcpPacket::new_unchecked(frame.get_mut(header..)?);
        tcp.set_seq_number(edge);
        tcp.set_fin(false);
        tcp.set_psh(false);
        tcp.fill_checksum(&from, &to);
        Some(end)
    }
}
