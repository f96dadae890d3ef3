//! How far a learned flow has come, and how long it is kept unused.
//!
//! ```text
//!   TCP:  opening --a segment that is not SYN--> established --FIN, RST--> closing --SYN--> opening
//! ```
//!
//! - Read from flags alone, without regard to who sent them or to sequence numbers: whoever forges a FIN or RST makes a
//!   flow be kept for less time after its last frame, and cannot end it.
//! - A flow that was not used for its time may be given up for another. While there is room it stays.

use crate::classify::{Flow, Protocol};
use core::time::Duration;

/// Flags of a TCP header; none of what is no TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;

    /// Of a plain frame that begins with `head`, as far as they lie in it.
    #[inline(always)]
    pub(crate) fn of(head: &[u8]) -> Self {
        const TCP: u8 = 6;
        let (protocol, flags) = match head.get(12..14) {
            Some([0x08, 0x00]) => (head.get(23), head.get(47)),
            Some([0x86, 0xdd]) => (head.get(20), head.get(67)),
            _ => return Self(0),
        };
        match (protocol, flags) {
            (Some(&TCP), Some(flags)) => Self(*flags),
            _ => Self(0),
        }
    }
}

/// How far a learned flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// TCP of which nothing but SYN was seen.
    Opening,
    /// TCP that goes on.
    Established,
    /// TCP of which a FIN or RST was seen.
    Closing,
    /// SCTP and DCCP, whose states are not read.
    Association,
    /// UDP and UDP-Lite.
    Datagrams,
    /// An echo request and its answers.
    Echo,
}

impl Stage {
    /// Where a flow begins.
    #[must_use]
    pub fn first(flow: &Flow) -> Self {
        match flow.protocol {
            Protocol::TCP => Self::Opening,
            Protocol::SCTP | Protocol::DCCP => Self::Association,
            Protocol::ICMP | Protocol::ICMPV6 => Self::Echo,
            _ => Self::Datagrams,
        }
    }

    /// Where it is after a segment with these flags.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, TcpFlags(flags): TcpFlags) -> Self {
        let ends = flags & (TcpFlags::FIN | TcpFlags::RST) != 0;
        let begins = flags & TcpFlags::SYN != 0;
        match self {
            Self::Opening | Self::Established | Self::Closing if ends => Self::Closing,
            Self::Closing if begins => Self::Opening,
            Self::Opening if flags != 0 && !begins => Self::Established,
            other => other,
        }
    }

    /// Of a number that a stage was turned into; any other stands for the first.
    #[inline(always)]
    pub(super) const fn from_bits(bits: u8) -> Self {
        const ALL: [Stage; 6] = [
            Stage::Opening,
            Stage::Established,
            Stage::Closing,
            Stage::Association,
            Stage::Datagrams,
            Stage::Echo,
        ];
        if (bits as usize) < ALL.len() { ALL[bits as usize] } else { Self::Opening }
    }

    /// How long it is kept unused, whatever else wants its place.
    #[must_use]
    pub const fn time(self) -> Duration {
        Duration::from_secs(match self {
            Self::Opening | Self::Closing | Self::Echo => 60,
            // RFC 5382, 5; RFC 5597, 3.
            Self::Established | Self::Association => 7440,
            // RFC 4787, 4.3.
            Self::Datagrams => 120,
        })
    }

    /// As status output has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Association => "association",
            Self::Datagrams => "datagrams",
            Self::Echo => "echo",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIN: u8 = 0x11;
    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;

    #[test]
    fn tcp_goes_from_its_first_segment_to_its_last_by_the_flags() {
        use Stage::{Closing, Established, Opening};
        let table = [
            (Opening, SYN, Opening),
            (Opening, SYN_ACK, Opening),
            (Opening, ACK, Established),
            (Opening, RST, Closing),
            (Established, ACK, Established),
            (Established, SYN, Established),
            (Established, FIN, Closing),
            (Established, RST | ACK, Closing),
            (Closing, ACK, Closing),
            (Closing, SYN, Opening),
            // Not known: a frame that is read on another way.
            (Opening, 0, Opening),
        ];
        for (from, flags, to) in table {
            assert_eq!(from.after(TcpFlags(flags)), to, "{from:?} {flags:#x}");
            assert_eq!(to.after(TcpFlags(flags)), to, "twice is once: {from:?} {flags:#x}");
        }
        for other in [Stage::Datagrams, Stage::Echo, Stage::Association] {
            assert!((0..=255).all(|flags| other.after(TcpFlags(flags)) == other));
        }
    }

    #[test]
    fn flags_are_read_of_tcp_alone() {
        use usnet_fuzz::frames::{over_ipv4, over_ipv6, tcp, udp};
        let mut segment = tcp(1, 2);
        segment[13] = SYN_ACK;
        for frame in [over_ipv4(6, &segment), over_ipv6(6, &segment)] {
            assert_eq!(TcpFlags::of(&frame), TcpFlags(SYN_ACK));
            assert_eq!(TcpFlags::of(&frame[..46]), TcpFlags(0));
        }
        for frame in
            [over_ipv4(17, &udp(1, 2, &[0xff; 40])), over_ipv6(17, &udp(1, 2, &[0xff; 40]))]
        {
            assert_eq!(TcpFlags::of(&frame), TcpFlags(0));
        }
    }
}
