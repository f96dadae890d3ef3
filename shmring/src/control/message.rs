//! Messages as they lie on the socket.

use bytemuck::{Pod, Zeroable};
use core::mem::size_of;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Begins every message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// A [`Kind`].
    pub kind: u32,
    /// Bytes after this header.
    pub length: u32,
    /// Chosen by the client, repeated in the answer.
    pub request: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Header>() == 16);

/// Kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Client: make me a session. Body: [`Attach`].
    Attach = 1,
    /// Client: grant me ports. Body: [`Claim`].
    Claim = 2,
    /// Client: take a claim back. Body: [`Claim`], as it was granted.
    Release = 3,
    /// Anyone: tell me something. Body: [`Query`].
    Query = 4,
    /// Client: end my session. No body.
    Detach = 5,
    /// Anyone: tell me something that takes words to ask for. Body: [`Ask`].
    Ask = 6,
    /// Client: grant me ports for some remote ends, or a protocol, or a place in a group. Body: [`Rule`].
    ClaimRule = 7,
    /// Client: take such a claim back. Body: [`Rule`], as it was granted.
    ReleaseRule = 8,
    /// Daemon: here is your session. Body: [`Attached`], with descriptors.
    Attached = 0x101,
    /// Daemon: this was granted, or released. Body: [`Claim`].
    Claimed = 0x102,
    /// Daemon: a piece of an answer to a query. Body: [`Text`].
    Text = 0x104,
    /// Daemon: this was granted, or released. Body: [`Rule`].
    RuleClaimed = 0x106,
    /// Daemon: your session has ended. No body.
    Detached = 0x105,
    /// Daemon: no. Body: [`Refused`].
    Refused = 0x1ff,
}

impl Kind {
    /// The kind of this number, if it is one.
    #[must_use]
    pub const fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Attach,
            2 => Self::Claim,
            3 => Self::Release,
            4 => Self::Query,
            5 => Self::Detach,
            6 => Self::Ask,
            7 => Self::ClaimRule,
            8 => Self::ReleaseRule,
            0x101 => Self::Attached,
            0x102 => Self::Claimed,
            0x104 => Self::Text,
            0x105 => Self::Detached,
            0x106 => Self::RuleClaimed,
            0x1ff => Self::Refused,
            _ => return None,
        })
    }
}

/// A name of at most `N` bytes, padded with zeros.
#[must_use]
pub fn name_into<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// The text before the padding, with what is no printable ASCII replaced by `?`.
#[must_use]
pub fn name_from(bytes: &[u8]) -> String {
    let printable = |b: u8| if b.is_ascii_graphic() || b == b' ' { char::from(b) } else { '?' };
    bytes.iter().take_while(|b| **b != 0).map(|b| printable(*b)).collect()
}

/// Body of [`Kind::Attach`]. A zero asks for the daemon's default; the daemon may grant less.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Attach {
    /// [`VERSION`](crate::layout::VERSION) of the client.
    pub version: u32,
    /// Cells of each ring; a power of two.
    pub ring_capacity: u32,
    /// Slots of an own receive pool (mode `isolated`).
    pub receive_slots: u32,
    /// Slots of the transmit pool; at most `ring_capacity`.
    pub transmit_slots: u32,
    /// Interface to attach to; empty means the only one.
    pub interface: [u8; 16],
    /// What to call the client in status output; empty means its process name.
    pub name: [u8; 32],
    /// What the client knows beside, as bits: [`features`].
    pub features: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Attach>() == 72);

/// What a session can agree on: bits of [`Attach::features`] and [`Attached::features`]. The daemon grants some of
/// those that were asked for; both sides ignore bits that they do not know.
pub mod features {
    /// Frames may be [unfinished](crate::offload::Offload), in both directions: flags of descriptors say so.
    pub const UNFINISHED: u32 = 1;
    /// The daemon knows `ClaimRule` and `ReleaseRule`.
    pub const RULES: u32 = 2;
}

/// How a session's memory is shared. Decided by policy, told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Own receive pool; frames are copied once.
    Isolated = 0,
    /// A trust group: frames are handed over where they lie.
    Shared = 1,
}

impl Mode {
    /// The mode of this number, if it is one.
    #[must_use]
    pub const fn from_u32(mode: u32) -> Option<Self> {
        match mode {
            0 => Some(Self::Isolated),
            1 => Some(Self::Shared),
            _ => None,
        }
    }
}

/// An address with its prefix length; all zero (family 0) means none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Address {
    /// The address; IPv4 in the first four bytes.
    pub bytes: [u8; 16],
    /// 4, 6, or 0 for none.
    pub family: u8,
    /// Prefix length, 0..=32 or 0..=128.
    pub prefix: u8,
    /// Zero.
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<Address>() == 24);

impl Address {
    /// With a prefix length.
    #[must_use]
    pub fn new(ip: IpAddr, prefix: u8) -> Self {
        let mut address = Self { prefix, ..Self::default() };
        match ip {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                address.family = 4;
                (address.bytes[0], address.bytes[1], address.bytes[2], address.bytes[3]) =
                    (a, b, c, d);
            }
            IpAddr::V6(v6) => (address.family, address.bytes) = (6, v6.octets()),
        }
        address
    }

    /// The address, if there is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        let [a, b, c, d, ..] = self.bytes;
        match self.family {
            4 => Some(Ipv4Addr::new(a, b, c, d).into()),
            6 => Some(Ipv6Addr::from(self.bytes).into()),
            _ => None,
        }
    }
}

/// What a client may do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SegmentAccess {
    /// Its transmit slots: map read-write.
    Transmit = 1,
    /// Slots that arrive on its rx ring and nobody but the daemon writes: map read-only.
    Receive = 2,
    /// Transmit slots of the whole group, its own among them: map read-only. Other members may
    /// write them, so copy before you look.
    Group = 3,
}

/// One segment of slots, or a part of one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct SegmentInfo {
    /// A [`SegmentAccess`]; 0 ends the list.
    pub access: u32,
    /// Which of the descriptors that came with the message, counted from 0.
    pub descriptor: u32,
    /// First slot number.
    pub first: u32,
    /// Number of slots.
    pub count: u32,
    /// Where the first slot begins in the memfd, in bytes.
    pub offset: u64,
}
const _: () = assert!(size_of::<SegmentInfo>() == 24);

/// Body of [`Kind::Attached`]. Descriptors: 0 inbound region, 1 outbound region, 2 kick eventfd,
/// 3 wake socket, 4.. memfds of segments.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Attached {
    /// [`VERSION`](crate::layout::VERSION) of the daemon.
    pub version: u32,
    /// Number of the session, as in status output.
    pub session: u32,
    /// A [`Mode`].
    pub mode: u32,
    /// Cells of each ring.
    pub ring_capacity: u32,
    /// Bytes of a slot.
    pub slot_size: u32,
    /// Largest IP packet of the interface, in bytes.
    pub mtu: u32,
    /// Bytes of the inbound region.
    pub inbound_size: u64,
    /// Bytes of the outbound region.
    pub outbound_size: u64,
    /// The interface's MAC, which the client sends from.
    pub mac: [u8; 6],
    /// Queue pairs, at least one: one for each worker of the daemon.
    pub pairs: u16,
    /// IPv4 address that the client may use.
    pub ipv4: Address,
    /// IPv6 address that the client may use.
    pub ipv6: Address,
    /// IPv4 router.
    pub gateway4: Address,
    /// IPv6 router.
    pub gateway6: Address,
    /// Segments to map.
    pub segments: [SegmentInfo; 4],
    /// What was agreed on, of what the client asked for: [`features`].
    pub features: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Attached>() == 48 + 4 * 24 + 4 * 24 + 8);

/// Body of [`Kind::Claim`], [`Kind::Release`] and [`Kind::Claimed`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Claim {
    /// Local address; family 0 means every address of the session.
    pub address: Address,
    /// First port. 0 with a count asks for any free block of that size; with protocols that have no
    /// ports, 0.
    pub first_port: u16,
    /// Number of ports, 1..=4,096.
    pub count: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<Claim>() == 32);

/// Body of [`Kind::ClaimRule`], [`Kind::ReleaseRule`] and [`Kind::RuleClaimed`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Rule {
    /// Local address; family 0 means every address of the session.
    pub address: Address,
    /// Where frames come from: an address with the length of a prefix; family 0 means from anywhere.
    pub remote: Address,
    /// First port. 0 with a count asks for any free block of that size; with protocols that have no
    /// ports, 0.
    pub first_port: u16,
    /// Number of ports, 1..=4,096; with protocols that have no ports, 0.
    pub count: u16,
    /// The port that frames come from; 0 means any.
    pub remote_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Of two rules that fit, the one with more is asked first.
    pub priority: u8,
    /// Bits of [`rule_flags`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Rule>() == 64);

/// Bits of [`Rule::flags`].
pub mod rule_flags {
    /// Others of the same user may have the same words: then each gets a part of the flows.
    pub const SPREAD: u32 = 1;
}

/// Body of [`Kind::Query`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Query {
    /// A [`QueryKind`].
    pub what: u32,
    /// Which one, where the kind asks for it; otherwise 0.
    pub which: u32,
}

/// Bytes of words in one [`Ask`].
pub const ASK_BYTES: usize = 1024;

/// Body of [`Kind::Ask`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ask {
    /// A [`QueryKind`].
    pub what: u32,
    /// Bytes of `words` that count.
    pub used: u32,
    /// UTF-8.
    pub words: [u8; ASK_BYTES],
}
const _: () = assert!(size_of::<Ask>() == 8 + ASK_BYTES);

impl Ask {
    /// A question in words; `None` if they are too long.
    #[must_use]
    pub fn new(what: QueryKind, words: &str) -> Option<Self> {
        let mut bytes = [0; ASK_BYTES];
        bytes.get_mut(..words.len())?.copy_from_slice(words.as_bytes());
        Some(Self { what: what as u32, used: u32::try_from(words.len()).ok()?, words: bytes })
    }

    /// The words, if they are some.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let used = usize::try_from(self.used).ok()?;
        core::str::from_utf8(self.words.get(..used)?).ok()
    }
}

/// What can be asked. Every answer is one JSON document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum QueryKind {
    /// The daemon, its interfaces and ports.
    Status = 1,
    /// Attached clients.
    Clients = 2,
    /// Rules in force.
    Rules = 3,
    /// Counters, drops by reason, slots by owner.
    Stats = 4,
    /// Ends the session `which`; for root and the daemon's own user.
    DetachClient = 5,
    /// Who would get a frame, and why; asked in words.
    Explain = 6,
    /// Flows that the switch knows, at most `which` of them; for root and the daemon's own user.
    Flows = 7,
    /// What has happened from number `which` on; waits until there is something.
    Events = 8,
    /// Copies of frames, through a pipe; asked in words, for root and the daemon's own user.
    Capture = 9,
    /// What another configuration would change; asked with its path, by root and the daemon's own user.
    DiffConfig = 10,
    /// Puts another configuration into force, all of it or nothing; asked likewise.
    ApplyConfig = 11,
    /// What the kernel's stack has beside the clients; for root and the daemon's own user.
    Host = 12,
}

impl QueryKind {
    /// The kind of this number, if it is one.
    #[must_use]
    pub const fn from_u32(kind: u32) -> Option<Self> {
        Some(match kind {
            1 => Self::Status,
            2 => Self::Clients,
            3 => Self::Rules,
            4 => Self::Stats,
            5 => Self::DetachClient,
            6 => Self::Explain,
            7 => Self::Flows,
            8 => Self::Events,
            9 => Self::Capture,
            10 => Self::DiffConfig,
            11 => Self::ApplyConfig,
            12 => Self::Host,
            _ => return None,
        })
    }
}

/// Bytes of text in one message.
pub const TEXT_BYTES: usize = 4096;

/// Body of [`Kind::Text`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Text {
    /// Bytes of `bytes` that count.
    pub used: u32,
    /// 1 if another piece follows.
    pub more: u32,
    /// UTF-8, cut anywhere.
    pub bytes: [u8; TEXT_BYTES],
}

/// Body of [`Kind::Refused`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Refused {
    /// A [`RefusalCode`].
    pub code: u32,
    /// What was wrong, in words, padded with zeros.
    pub message: [u8; 252],
}
const _: () = assert!(size_of::<Refused>() == 256);

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RefusalCode {
    /// The message is malformed, or not allowed in this state.
    Protocol = 1,
    /// Versions differ.
    Version = 2,
    /// Policy does not allow it.
    NotPermitted = 3,
    /// Somebody else has it.
    InUse = 4,
    /// A quota or the memory is used up.
    Exhausted = 5,
    /// No such interface, address, claim or session.
    NotFound = 6,
    /// The daemon failed; its log says how.
    Internal = 7,
}

impl RefusalCode {
    /// The code of this number; unknown ones are [`RefusalCode::Internal`].
    #[must_use]
    pub const fn from_u32(code: u32) -> Self {
        match code {
            1 => Self::Protocol,
            2 => Self::Version,
            3 => Self::NotPermitted,
            4 => Self::InUse,
            5 => Self::Exhausted,
            6 => Self::NotFound,
            _ => Self::Internal,
        }
    }
}

/// A message whose length and kind agree.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack of the control path, briefly")]
pub enum Message {
    /// [`Kind::Attach`]
    Attach(Attach),
    /// [`Kind::Claim`]
    Claim(Claim),
    /// [`Kind::Release`]
    Release(Claim),
    /// [`Kind::ClaimRule`]
    ClaimRule(Rule),
    /// [`Kind::ReleaseRule`]
    ReleaseRule(Rule),
    /// [`Kind::Query`]
    Query(Query),
    /// [`Kind::Ask`]
    Ask(Ask),
    /// [`Kind::Detach`]
    Detach,
    /// [`Kind::Attached`]
    Attached(Attached),
    /// [`Kind::Claimed`]
    Claimed(Claim),
    /// [`Kind::RuleClaimed`]
    RuleClaimed(Rule),
    /// [`Kind::Text`]
    Text(Text),
    /// [`Kind::Detached`]
    Detached,
    /// [`Kind::Refused`]
    Refused(Refused),
}

impl Message {
    /// Reads one datagram. `None` if it is not exactly one message.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<(u32, Self)> {
        let (head, body) = datagram.split_at_checked(size_of::<Header>())?;
        let header: Header = bytemuck::try_pod_read_unaligned(head).ok()?;
        if header.length as usize != body.len() || header.reserved != 0 {
            return None;
        }
        fn read<T: Pod>(body: &[u8]) -> Option<T> {
            bytemuck::try_pod_read_unaligned(body).ok()
        }
        let message = match Kind::from_u32(header.kind)? {
            Kind::Attach => Self::Attach(read(body)?),
            Kind::Claim => Self::Claim(read(body)?),
            Kind::Release => Self::Release(read(body)?),
            Kind::Query => Self::Query(read(body)?),
            Kind::Ask => Self::Ask(read(body)?),
            Kind::ClaimRule => Self::ClaimRule(read(body)?),
            Kind::ReleaseRule => Self::ReleaseRule(read(body)?),
            Kind::RuleClaimed => Self::RuleClaimed(read(body)?),
            Kind::Attached => Self::Attached(read(body)?),
            Kind::Claimed => Self::Claimed(read(body)?),
            Kind::Text => Self::Text(read(body)?),
            Kind::Refused => Self::Refused(read(body)?),
            Kind::Detach if body.is_empty() => Self::Detach,
            Kind::Detached if body.is_empty() => Self::Detached,
            Kind::Detach | Kind::Detached => return None,
        };
        Some((header.request, message))
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Attach(_) => Kind::Attach,
            Self::Claim(_) => Kind::Claim,
            Self::Release(_) => Kind::Release,
            Self::Query(_) => Kind::Query,
            Self::Ask(_) => Kind::Ask,
            Self::ClaimRule(_) => Kind::ClaimRule,
            Self::ReleaseRule(_) => Kind::ReleaseRule,
            Self::RuleClaimed(_) => Kind::RuleClaimed,
            Self::Detach => Kind::Detach,
            Self::Attached(_) => Kind::Attached,
            Self::Claimed(_) => Kind::Claimed,
            Self::Text(_) => Kind::Text,
            Self::Detached => Kind::Detached,
            Self::Refused(_) => Kind::Refused,
        }
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Attach(body) => bytemuck::bytes_of(body),
            Self::Claim(body) | Self::Release(body) | Self::Claimed(body) => {
                bytemuck::bytes_of(body)
            }
            Self::ClaimRule(body) | Self::ReleaseRule(body) | Self::RuleClaimed(body) => {
                bytemuck::bytes_of(body)
            }
            Self::Query(body) => bytemuck::bytes_of(body),
            Self::Ask(body) => bytemuck::bytes_of(body),
            Self::Attached(body) => bytemuck::bytes_of(body),
            Self::Text(body) => bytemuck::bytes_of(body),
            Self::Refused(body) => bytemuck::bytes_of(body),
            Self::Detach | Self::Detached => &[],
        }
    }

    /// The header that goes before it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bodies are fixed and small")]
    pub fn header(&self, request: u32) -> Header {
        Header { kind: self.kind() as u32, length: self.body().len() as u32, request, reserved: 0 }
    }

    /// A refusal in words, cut to the message's size.
    #[must_use]
    pub fn refused(code: RefusalCode, message: &str) -> Self {
        Self::Refused(Refused { code: code as u32, message: name_into(message) })
    }
}
