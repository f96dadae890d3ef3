//! Netlink: requests built as bytes, answers taken apart with every length checked.
//!
//! ```text
//!   nlmsghdr 16      body header    attribute       attribute
//!  +---------------+--------------+-----+---------+-----+-------
//!  | len type .... | ifinfomsg .. | len | type .. | len | type   each padded to 4 bytes
//!  +---------------+--------------+-----+---------+-----+-------
//! ```
//!
//! Mirrors linux/netlink.h. One request is under way at a time; an answer is believed only if the
//! kernel (port 0) sent it and it carries the request's sequence number.

use super::error::{KernelNote, NetError};
use super::sys;
use bytemuck::{NoUninit, Pod, Zeroable};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with,
};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Header {
    len: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct nlmsgerr` without the copy of the request's header that follows its number.
const ERROR_LEN: usize = 4 + HEADER_LEN;
pub(super) const HEADER_LEN: usize = size_of::<Header>();
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Room for one datagram of a dump; the kernel fills at most 32 kB of what is offered.
const RECEIVE_LEN: usize = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;

const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A request under construction.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of `kind` whose body begins with `body` (`ifinfomsg`, `nfgenmsg` ...).
    pub(super) fn new<B: NoUninit>(kind: u16, flags: u16, body: &B) -> Self {
        let header = Header { len: 0, kind, flags: flags | NLM_F_REQUEST, sequence: 0, port: 0 };
        let mut message = Self { bytes: bytemuck::bytes_of(&header).to_vec() };
        message.extend(bytemuck::bytes_of(body));
        message
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(padded(self.bytes.len()), 0);
    }

    /// Appends an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len());
        // A longer value than any of ours: the kernel refuses the length zero.
        self.bytes.extend_from_slice(&len.unwrap_or(0).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.extend(value);
        self
    }

    /// Appends an attribute that is text with a zero byte after it.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends an attribute of 32 bits in the machine's order (NETLINK_ROUTE).
    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute of 32 bits in network order (NETLINK_NETFILTER).
    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends raw bytes of a header inside an attribute, as `VETH_INFO_PEER` has one.
    pub(super) fn raw<B: NoUninit>(mut self, body: &B) -> Self {
        self.extend(bytemuck::bytes_of(body));
        self
    }

    /// Appends an attribute that holds the attributes which `fill` appends.
    pub(super) fn nested(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        let mut message = fill(self);
        let len = u16::try_from(message.bytes.len() - start).unwrap_or(0);
        message.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        message
    }

    /// The finished bytes, with `flags` besides its own and numbered `sequence`.
    pub(super) fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        // A request of ours is never near 4 GiB.
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Walks attributes: kind without its flag bits, and value. Ends at the first that does not fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of `kind`.
    pub(super) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The first attribute of `kind`, as 32 bits.
    pub(super) fn find_u32(self, kind: u16) -> Option<u32> {
        self.find(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// The first attribute of `kind`, as text up to its zero byte.
    pub(super) fn find_text(self, kind: u16) -> Option<String> {
        let bytes = self.find(kind)?;
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, _) = self.0.split_at_checked(ATTRIBUTE_HEADER_LEN)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER_LEN..len)?;
        self.0 = self.0.get(padded(len)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Splits a body into a fixed header and the attributes after it.
pub(super) fn split_body<B: Pod>(body: &[u8]) -> Option<(B, Attributes<'_>)> {
    let (head, rest) = body.split_at_checked(padded(size_of::<B>()))?;
    Some((bytemuck::pod_read_unaligned(&head[..size_of::<B>()]), Attributes(rest)))
}

/// Why a request failed, before it is known what it was about.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel, or the socket, said no.
    Refused(io::Error, KernelNote),
    /// An answer had another shape than it must have.
    Malformed,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Refused(error, KernelNote::default())
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl Failure {
    /// Adds what was asked of what.
    pub(super) fn of(self, operation: &'static str, object: impl Into<String>) -> NetError {
        let object = object.into();
        match self {
            Self::Refused(source, note) => NetError::Refused { operation, object, note, source },
            Self::Malformed => NetError::Answer { operation, object },
        }
    }
}

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What the walk over an answer found.
enum Answer {
    More,
    Done,
}

impl Socket {
    /// Opens a socket of one netlink family; `None` is NETLINK_ROUTE, whose number is 0.
    pub(super) fn open(protocol: Option<Protocol>) -> Result<Self, Failure> {
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        // Explanations are a comfort: a kernel without them (before 4.12) works as well.
        let _ = sys::set_option(&fd, SOL_NETLINK, NETLINK_EXT_ACK, &1_i32);
        let _ = sys::set_option(&fd, SOL_NETLINK, NETLINK_CAP_ACK, &1_i32);
        // The kernel answers at once; a bound keeps a defect from becoming a hang.
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Self { fd, sequence: 1, buffer: vec![0; RECEIVE_LEN] })
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        if sent == bytes.len() { Ok(()) } else { Err(Failure::Malformed) }
    }

    /// The socket, and a request as it is sent through it.
    pub(super) fn into_last(mut self, message: Message) -> (OwnedFd, Vec<u8>) {
        let sequence = self.next_sequence();
        (self.fd, message.finish(0, sequence))
    }

    /// Sends a request and waits until the kernel has done it.
    pub(super) fn request(&mut self, message: Message) -> Result<(), Failure> {
        self.query(message, NLM_F_ACK, |_, _| {})
    }

    /// Sends a request that answers with messages: [`NLM_F_DUMP`] for all there are, [`NLM_F_ACK`]
    /// for one. `each` gets the kind and the body of every one.
    pub(super) fn query(
        &mut self,
        message: Message,
        flags: u16,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Failure> {
        let sequence = self.next_sequence();
        self.send(&message.finish(flags, sequence))?;
        self.collect(sequence..=sequence, each)
    }

    /// Sends several messages in one datagram, all done or none (linux/netfilter/nfnetlink.h). The
    /// last but one, before `NFNL_MSG_BATCH_END`, is acknowledged; an error of any is the result.
    pub(super) fn batch(
        &mut self,
        begin: Message,
        body: Vec<Message>,
        end: Message,
    ) -> Result<(), Failure> {
        let first = self.next_sequence();
        let mut bytes = begin.finish(0, first);
        let last_index = body.len().saturating_sub(1);
        for (index, message) in body.into_iter().enumerate() {
            let flags = if index == last_index { NLM_F_ACK } else { 0 };
            let sequence = self.next_sequence();
            bytes.extend_from_slice(&message.finish(flags, sequence));
        }
        let last = self.sequence;
        let sequence = self.next_sequence();
        bytes.extend_from_slice(&end.finish(0, sequence));
        self.send(&bytes)?;
        self.collect(first..=last, |_, _| {})
    }

    /// Reads until the last of the requests numbered so is answered completely, or one is refused.
    fn collect(
        &mut self,
        sequences: RangeInclusive<u32>,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Failure> {
        loop {
            // With TRUNC the kernel tells the whole length even if the buffer was too short.
            let (_, len, from) = match recvfrom(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let from_kernel = from
                .and_then(|address| SocketAddrNetlink::try_from(address).ok())
                .is_some_and(|address| address.pid() == 0);
            if !from_kernel {
                continue;
            }
            let datagram = self.buffer.get(..len).ok_or(Failure::Malformed)?;
            if let Answer::Done = walk(datagram, &sequences, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Goes through the messages of one datagram.
fn walk(
    mut bytes: &[u8],
    sequences: &RangeInclusive<u32>,
    each: &mut impl FnMut(u16, &[u8]),
) -> Result<Answer, Failure> {
    while let Some((head, _)) = bytes.split_at_checked(HEADER_LEN) {
        let header: Header = bytemuck::pod_read_unaligned(head);
        let len = usize::try_from(header.len).map_err(|_| Failure::Malformed)?;
        let body = bytes.get(HEADER_LEN..len).ok_or(Failure::Malformed)?;
        bytes = bytes.get(padded(len)..).unwrap_or(&[]);
        if !sequences.contains(&header.sequence) {
            continue;
        }
        let is_last = header.sequence == *sequences.end();
        match header.kind {
            NLMSG_ERROR => match parse_error(body, header.flags)? {
                Some((error, note)) => return Err(Failure::Refused(error, note)),
                None if is_last => return Ok(Answer::Done),
                None => {}
            },
            NLMSG_DONE if is_last => return Ok(Answer::Done),
            kind => each(kind, body),
        }
    }
    Ok(Answer::More)
}

/// Reads `struct nlmsgerr` and the explanation after it; `None` is success.
fn parse_error(body: &[u8], flags: u16) -> Result<Option<(io::Error, KernelNote)>, Failure> {
    let (number, _) = body.split_first_chunk::<4>().ok_or(Failure::Malformed)?;
    let number = i32::from_ne_bytes(*number);
    if number == 0 {
        return Ok(None);
    }
    let mut note = None;
    if flags & NLM_F_ACK_TLVS != 0 && body.len() >= ERROR_LEN {
        // The whole request comes back before the attributes unless the answer is capped.
        let request = u32::from_ne_bytes([body[4], body[5], body[6], body[7]]);
        let request = usize::try_from(request).map_err(|_| Failure::Malformed)?;
        let skip = if flags & NLM_F_CAPPED != 0 { ERROR_LEN } else { padded(4 + request) };
        note = Attributes(body.get(skip..).unwrap_or(&[])).find_text(NLMSGERR_ATTR_MSG);
    }
    Ok(Some((io::Error::from_raw_os_error(number.saturating_neg()), KernelNote(note))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let message = Message::new(16, 0, &[0_u8; 4])
            .text(3, "ab")
            .nested(18, |m| m.text(1, "veth").nested(2, |m| m.u32(7, 9)))
            .u32(4, 1500);
        let bytes = message.finish(0, 77);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(bytes[0..4].try_into().unwrap()) as usize, bytes.len());
        let attributes = Attributes(&bytes[HEADER_LEN + 4..]);
        assert_eq!(attributes.find_text(3).as_deref(), Some("ab"));
        assert_eq!(attributes.find_u32(4), Some(1500));
        let inner = Attributes(attributes.find(18).unwrap());
        assert_eq!(inner.find_text(1).as_deref(), Some("veth"));
        assert_eq!(Attributes(inner.find(2).unwrap()).find_u32(7), Some(9));
    }

    #[test]
    fn an_attribute_longer_than_its_message_ends_the_walk() {
        for len in [0_u16, 3, 9, u16::MAX] {
            let mut bytes = vec![0; 8];
            bytes[0..2].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Attributes(&bytes).count(), 0, "length {len}");
        }
    }

    #[test]
    fn an_error_carries_number_and_explanation() {
        let mut body = (-libc::EBUSY).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER_LEN]);
        body.extend_from_slice(&[8, 0, 1, 0]);
        body.extend_from_slice(b"why\0");
        let (error, note) = parse_error(&body, NLM_F_CAPPED | NLM_F_ACK_TLVS).unwrap().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        assert_eq!(note, KernelNote(Some("why".into())));
    }

    #[test]
    fn a_cut_answer_is_malformed_and_does_not_panic() {
        let whole = Message::new(16, 0, &[0_u8; 16]).u32(1, 2).finish(0, 5);
        for len in 0..whole.len() {
            let result = walk(&whole[..len], &(5..=5), &mut |_, _| {});
            assert!(matches!(result, Ok(Answer::More) | Err(Failure::Malformed)));
        }
    }
}
