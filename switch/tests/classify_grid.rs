//! Every combination of the edges of the header fields is classified as a slow reference does it.
//!
//! The reference was written from the RFCs and the tables in the modules' heads, with plain indices
//! into the frame and no thought of speed; it shares nothing with the classifier. It says what a frame
//! is, or only that it is malformed.

use usnet_fuzz::frames::{IPV4, IPV6, ethernet, ipv4, ipv6};
use usnet_switch::classify::{Fragment, Payload, classify};

/// What the reference says of an understood packet.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Seen {
    protocol: u8,
    /// Ports, or of an echo the identifier twice.
    ports: Option<(u16, u16)>,
    /// 0: whole, 1: first piece, 2: later piece.
    piece: u8,
    /// Where the transport header begins, and where the packet ends.
    transport: usize,
    end: usize,
}

fn number(frame: &[u8], at: usize) -> usize {
    usize::from(frame[at]) * 256 + usize::from(frame[at + 1])
}

/// Which piece this is; `None` if it cannot be one. `len` is that of its data, `before` what of the
/// datagram comes before the data in each piece, as far as the length field of a datagram counts it.
fn piece(offset: usize, more: bool, len: usize, before: usize, protocol: u8) -> Option<u8> {
    let header = match protocol {
        6 => 20,
        33 | 132 => 12,
        _ => 8,
    };
    match (offset, more) {
        (0, false) => Some(0),
        _ if len == 0 => None,
        _ if more && !len.is_multiple_of(8) => None,
        _ if before + offset + len > 65_535 => None,
        (0, true) => Some(1),
        _ if offset < header => None,
        _ => Some(2),
    }
}

/// The ports in a transport header from `at` to `end`; the outer `None` if it is malformed.
fn ports(
    frame: &[u8],
    at: usize,
    end: usize,
    protocol: u8,
    piece: u8,
    is_ipv6: bool,
) -> Option<Option<(u16, u16)>> {
    if piece == 2 {
        return Some(None);
    }
    let len = end - at;
    let both = |first: usize, second: usize| {
        let port = |offset| u16::try_from(number(frame, at + offset)).unwrap();
        Some(Some((port(first), port(second))))
    };
    match protocol {
        6 => {
            let header = if len < 20 { 0 } else { usize::from(frame[at + 12] / 16) * 4 };
            if header < 20 || header > len { None } else { both(0, 2) }
        }
        17 => {
            let claimed = if len < 8 { 0 } else { number(frame, at + 4) };
            if claimed < 8 || (piece == 0 && claimed > len) { None } else { both(0, 2) }
        }
        136 => {
            let covered = if len < 8 { 1 } else { number(frame, at + 4) };
            let is_cut = (1..8).contains(&covered) || (piece == 0 && covered > len);
            if is_cut { None } else { both(0, 2) }
        }
        132 => {
            if len < 12 {
                None
            } else {
                both(0, 2)
            }
        }
        33 => {
            let header = if len < 12 { 0 } else { usize::from(frame[at + 4]) * 4 };
            if header < 12 || header > len { None } else { both(0, 2) }
        }
        1 if !is_ipv6 => match len {
            0..8 => None,
            _ if matches!(frame[at..at + 2], [0 | 8, 0]) => both(4, 4),
            _ => Some(None),
        },
        58 if is_ipv6 => match len {
            0..8 => None,
            _ if matches!(frame[at..at + 2], [128 | 129, 0]) => both(4, 4),
            _ => Some(None),
        },
        2 if !is_ipv6 && len < 8 => None,
        _ => Some(None),
    }
}

fn authentication_len(frame: &[u8], at: usize, end: usize) -> Option<usize> {
    let fits = at + 12 <= end && frame[at + 1] >= 1;
    let len = if fits { (usize::from(frame[at + 1]) + 2) * 4 } else { return None };
    (at + len <= end).then_some(len)
}

fn reference_ipv4(frame: &[u8]) -> Option<Seen> {
    if frame.len() < 34 || frame[14] / 16 != 4 {
        return None;
    }
    let header = usize::from(frame[14] % 16) * 4;
    let total = number(frame, 16);
    if header < 20 || total < header || 14 + total > frame.len() {
        return None;
    }
    let bits = number(frame, 20);
    if bits & 0x8000 != 0 {
        return None;
    }
    let (mut at, end) = (14 + header, 14 + total);
    let mut protocol = frame[23];
    let (offset, more) = (bits % 0x2000 * 8, bits & 0x2000 != 0);
    let piece = piece(offset, more, end - at, header, protocol)?;
    let mut headers = 0;
    while protocol == 51 && piece != 2 {
        let len = authentication_len(frame, at, end)?;
        headers += 1;
        protocol = frame[at];
        at += len;
        if headers == 8 && protocol == 51 {
            return None;
        }
    }
    let ports = ports(frame, at, end, protocol, piece, false)?;
    Some(Seen { protocol, ports, piece, transport: at, end })
}

fn reference_ipv6(frame: &[u8]) -> Option<Seen> {
    if frame.len() < 54 || frame[14] / 16 != 6 {
        return None;
    }
    let end = 54 + number(frame, 18);
    if end > frame.len() {
        return None;
    }
    let (mut next, mut at, mut kind) = (frame[20], 54, None);
    for passed in 0.. {
        let is_extension = [0, 43, 44, 51, 60].contains(&next);
        if !is_extension {
            break;
        }
        if passed == 8 || at + 8 > end || (next == 0 && passed != 0) {
            return None;
        }
        let len = (usize::from(frame[at + 1]) + 1) * 8;
        let len = match next {
            0 | 60 => {
                // All options here are one PadN that fills the header, at most seven bytes of it.
                let is_padding = frame[at + 2] == 1 && usize::from(frame[at + 3]) + 4 == len;
                if len == 8 && is_padding { len } else { return None }
            }
            43 => {
                let is_used_up = frame[at + 3] == 0 && ![2, 3, 4].contains(&frame[at + 2]);
                if is_used_up { len } else { return None }
            }
            44 => {
                if kind.is_some() || frame[at] == 44 || frame[at] == 0 {
                    return None;
                }
                let bits = number(frame, at + 2);
                let (offset, more) = (bits / 8 * 8, bits % 2 == 1);
                kind = Some(piece(offset, more, end - at - 8, at - 54, frame[at])?);
                8
            }
            _ => authentication_len(frame, at, end)?,
        };
        if at + len > end {
            return None;
        }
        next = frame[at];
        at += len;
        if kind == Some(2) {
            break;
        }
    }
    let piece = kind.unwrap_or(0);
    let ports = ports(frame, at, end, next, piece, true)?;
    Some(Seen { protocol: next, ports, piece, transport: at, end })
}

fn ours(frame: &[u8]) -> Option<Seen> {
    let Payload::Ip(packet) = classify(frame).ok()?.payload else { panic!("not IP") };
    let flow = packet.flow;
    Some(Seen {
        protocol: flow.protocol.0,
        ports: flow.ports_known.then_some((flow.source_port, flow.destination_port)),
        piece: match packet.fragment {
            Fragment::Whole => 0,
            Fragment::First { .. } => 1,
            Fragment::Later { .. } => 2,
        },
        transport: usize::from(packet.transport_offset),
        end: usize::from(packet.end),
    })
}

/// Frames seen, and how many of them were understood: a grid without both kinds proves nothing.
#[derive(Default)]
struct Count {
    all: usize,
    understood: usize,
}

impl Count {
    fn compare(&mut self, frame: &[u8], reference: fn(&[u8]) -> Option<Seen>) {
        let expected = reference(frame);
        assert_eq!(ours(frame), expected, "{frame:02x?}");
        self.all += 1;
        self.understood += usize::from(expected.is_some());
    }
}

const PROTOCOLS: [u8; 10] = [1, 2, 6, 17, 33, 51, 58, 132, 136, 253];

/// Transport headers by their bytes 0..16: lengths and offsets at their edges, echoes and others.
fn transports() -> impl Iterator<Item = [u8; 16]> {
    let edges = [0, 2, 3, 5, 7, 8, 9, 12, 19, 20, 21, 40];
    edges.into_iter().flat_map(move |edge| {
        [0x40, 0x50, 0x60, 0xf0].map(|offset| {
            // As read by UDP: ports 8, 0x0102 and a length; by DCCP, where the length would be, an
            // offset; by ICMP an echo or a reply; by an authentication header, next and length.
            let kind = if edge % 2 == 0 { [8, 0] } else { [17, 2] };
            [kind[0], kind[1], 1, 2, edge / 8 * 3, edge, 0, 0, 0, 0, 0, 0, offset, 0, 0, 0]
        })
    })
}

#[test]
fn ipv4_headers_at_all_edges_are_read_as_the_reference_does() {
    let fragments = [
        0, 0x4000, 0x8000, 0x2000, 0x6000, 1, 2, 3, 0x2001, 0x2003, 0x4003, 0x1ffd, 0x1ffe, 0x3ffd,
        0x1fff, 0x3fff,
    ];
    let mut count = Count::default();
    for transport in transports() {
        for words in 0..16_u8 {
            for body in [0, 7, 8, 11, 12, 16, 19, 20, 21, 24, 40] {
                // Options are all "no operation", and so is what follows if the header is shorter.
                let mut frame = ethernet(IPV4, &ipv4(0, &[], 0, &[1; 80]));
                let header = usize::from(words) * 4;
                frame.truncate(14 + (header + body).max(20));
                frame[14] = 0x40 | words;
                let at = 14 + header.max(20);
                for (byte, value) in frame.iter_mut().skip(at).zip(transport) {
                    *byte = value;
                }
                let len = frame.len() - 14;
                let totals =
                    [0, 19, 20, header, len.saturating_sub(1), len, len + 1, header + 8, 65_535];
                for total in totals {
                    frame[16..18].copy_from_slice(&u16::try_from(total).unwrap().to_be_bytes());
                    for protocol in PROTOCOLS {
                        frame[23] = protocol;
                        for bits in if total == len { &fragments[..] } else { &fragments[..5] } {
                            frame[20..22].copy_from_slice(&u16::to_be_bytes(*bits));
                            count.compare(&frame, reference_ipv4);
                        }
                    }
                }
            }
        }
    }
    assert!(count.all > 1_000_000 && count.understood > count.all / 20, "{} frames", count.all);
    assert!(count.understood < count.all / 2, "{} of {}", count.understood, count.all);
}

/// Extension headers as (type, body): the byte that names the next one is put in front.
const EXTENSIONS: [(u8, &[u8]); 13] = [
    (60, &[0, 1, 4, 0, 0, 0, 0]),
    (0, &[0, 1, 4, 0, 0, 0, 0]),
    (60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (60, &[200, 1, 4, 0, 0, 0, 0]),
    (43, &[0, 0, 0, 0, 0, 0, 0]),
    (43, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    (43, &[0, 0, 1, 0, 0, 0, 0]),
    (43, &[0, 4, 0, 0, 0, 0, 0]),
    (44, &[0, 0, 0, 0, 0, 0, 7]),
    (44, &[0, 0, 1, 0, 0, 0, 7]),
    (44, &[0, 0, 16, 0, 0, 0, 7]),
    (51, &[2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9]),
    (51, &[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9]),
];

/// A packet with these headers, and what comes last.
fn chain(headers: &[(u8, &[u8])], last: u8, transport: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (number, (_, body)) in headers.iter().enumerate() {
        payload.push(headers.get(number + 1).map_or(last, |it| it.0));
        payload.extend_from_slice(body);
    }
    payload.extend_from_slice(transport);
    ethernet(IPV6, &ipv6(headers.first().map_or(last, |it| it.0), &payload))
}

/// A TCP header that is a UDP header of length 8 as well.
const TRANSPORT: [u8; 24] =
    [0, 1, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];

#[test]
fn ipv6_chains_are_walked_as_the_reference_does() {
    let mut count = Count::default();
    let filler = EXTENSIONS[0];
    for len in 0..=9_usize {
        for last in 0..=255 {
            count.compare(&chain(&vec![filler; len], last, &TRANSPORT), reference_ipv6);
            for at in 0..len {
                for other in EXTENSIONS {
                    let mut headers = vec![filler; len];
                    headers[at] = other;
                    count.compare(&chain(&headers, last, &TRANSPORT), reference_ipv6);
                }
            }
        }
    }
    assert!(count.understood > count.all / 4, "{} of {}", count.understood, count.all);
    assert!(count.understood < count.all, "{} of {}", count.understood, count.all);
}

#[test]
fn three_ipv6_extension_headers_in_all_combinations_are_read_as_the_reference_does() {
    let mut count = Count::default();
    for first in EXTENSIONS {
        for second in EXTENSIONS {
            for third in EXTENSIONS {
                for last in PROTOCOLS {
                    count
                        .compare(&chain(&[first, second, third], last, &TRANSPORT), reference_ipv6);
                }
            }
        }
    }
    assert!(count.understood > 1_000, "{} of {}", count.understood, count.all);
}

#[test]
fn an_ipv6_packet_cut_anywhere_is_read_as_the_reference_does() {
    let mut count = Count::default();
    for first in EXTENSIONS {
        for second in EXTENSIONS {
            for last in PROTOCOLS {
                let frame = chain(&[first, second], last, &TRANSPORT);
                for len in 0..=frame.len() - 54 {
                    let mut cut = frame.clone();
                    cut[18..20].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
                    count.compare(&cut, reference_ipv6);
                    cut.truncate(54 + len);
                    count.compare(&cut, reference_ipv6);
                    if len > 0 {
                        cut.truncate(53 + len);
                        count.compare(&cut, reference_ipv6);
                    }
                }
            }
        }
    }
    assert!(count.understood > 10_000, "{} of {}", count.understood, count.all);
}

#[test]
fn ipv6_transport_headers_at_all_edges_are_read_as_the_reference_does() {
    let mut count = Count::default();
    for transport in transports() {
        for len in [0, 7, 8, 11, 12, 16, 19, 20, 21, 24, 40] {
            let mut payload = vec![0; len];
            for (byte, value) in payload.iter_mut().zip(transport) {
                *byte = value;
            }
            for protocol in PROTOCOLS {
                for header in [None, Some(EXTENSIONS[8]), Some(EXTENSIONS[9])] {
                    let headers: Vec<_> = header.into_iter().collect();
                    count.compare(&chain(&headers, protocol, &payload), reference_ipv6);
                }
            }
        }
    }
    assert!(count.understood > 1_000, "{} of {}", count.understood, count.all);
}
