//! Groups that the sockets of a stack have joined, and what routers and the switch are told of them.
//!
//! ```text
//!   join  --first socket--> report, and once more a second later     IGMPv2, MLDv1
//!   leave --last socket---> leave, done
//!   question of a router -> reports, each at a time of its own
//! ```
//!
//! smoltcp only lets the datagrams of these groups in. What it would say of them is not sent ([`Device`]): its IGMP has no router
//! alert, without which routers and the switch do not believe it, what it says to join in MLD means to leave (RFC 3810, 5.2.12), and
//! its answers do not wake a stack that sleeps. The older protocols are what every router and every switch that listens in understands.

use crate::device::Device;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::Ipv4Packet;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Groups that one client may have joined, by the switch's count.
const MOST: usize = 16;
/// When what was said unasked is said again, since it could have been lost.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of the longest message.
const LONGEST: usize = 14 + 40 + 8 + 24;
/// Bytes of a frame in which a question lies.
pub(super) const HEAD: usize = 128;

const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const ALL_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const ALL_ROUTERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const IGMP_QUERY: u8 = 0x11;
const IGMP_REPORT: u8 = 0x16;
const IGMP_LEAVE: u8 = 0x17;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_REPORT_V2: u8 = 143;

/// A client cannot join more groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// A group that at least one socket has joined.
#[derive(Clone, Copy, Debug)]
struct Joined {
    group: IpAddr,
    sockets: usize,
    /// When it is reported next.
    due: Option<Instant>,
    /// It is said again after that.
    again: bool,
}

/// All groups of a stack.
#[derive(Debug)]
pub(super) struct Groups {
    joined: Vec<Joined>,
    /// Groups that are left, which is still to be said; at most [`MOST`].
    left: Vec<IpAddr>,
    /// When there is something to say.
    due: Option<Instant>,
    speaker: Speaker,
    random: RandomState,
    questions: u64,
}

/// Who reports.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    mac: [u8; 6],
    v4: Ipv4Addr,
    /// Link-local, or unspecified (RFC 3590).
    v6: Ipv6Addr,
}

impl Groups {
    pub(super) fn new(mac: [u8; 6], v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Self {
        let v6 = v6.filter(Ipv6Addr::is_unicast_link_local).unwrap_or(Ipv6Addr::UNSPECIFIED);
        Self {
            joined: Vec::new(),
            left: Vec::new(),
            due: None,
            speaker: Speaker { mac, v4: v4.unwrap_or(Ipv4Addr::UNSPECIFIED), v6 },
            random: RandomState::new(),
            questions: 0,
        }
    }

    /// A socket joins a group. True: it is the first, and smoltcp has to be told.
    pub(super) fn join(&mut self, group: IpAddr, now: Instant) -> Result<bool, TooMany> {
        if let Some(joined) = self.joined.iter_mut().find(|j| j.group == group) {
            joined.sockets += 1;
            return Ok(false);
        }
        if self.joined.len() >= MOST {
            return Err(TooMany);
        }
        self.left.retain(|left| *left != group);
        self.joined.push(Joined { group, sockets: 1, due: Some(now), again: true });
        self.set_due(now);
        Ok(true)
    }

    /// A socket leaves a group. True: it was the last, and smoltcp has to be told.
    pub(super) fn leave(&mut self, group: IpAddr, now: Instant) -> bool {
        let Some(at) = self.joined.iter().position(|j| j.group == group) else { return false };
        let Some(joined) = self.joined.get_mut(at) else { return false };
        joined.sockets -= 1;
        if joined.sockets > 0 {
            return false;
        }
        self.joined.swap_remove(at);
        // What is not said now a router finds out when it asks.
        if self.left.len() < MOST {
            self.left.push(group);
        }
        self.set_due(now);
        true
    }

    /// When there is something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether questions are of interest.
    pub(super) fn listens(&self) -> bool {
        !self.joined.is_empty()
    }

    fn set_due(&mut self, now: Instant) {
        let reports = self.joined.iter().filter_map(|j| j.due).min();
        self.due = if self.left.is_empty() { reports } else { Some(now) };
    }

    /// A frame that begins with `head` arrives. If it is a router's question, what it asks for is reported within the time that it
    /// gives.
    pub(super) fn hear(&mut self, head: &[u8], now: Instant) {
        let Some(question) = Question::read(head) else { return };
        for joined in &mut self.joined {
            let is_meant = match question.group {
                Some(group) => joined.group == group,
                None => joined.group.is_ipv4() == question.is_v4,
            };
            if is_meant {
                self.questions = self.questions.wrapping_add(1);
                let random = self.random.hash_one(self.questions);
                let wait = Duration::from_millis(random % (question.within.total_millis() + 1));
                let at = now + wait;
                joined.due = Some(joined.due.map_or(at, |due| due.min(at)));
            }
        }
        self.set_due(now);
    }

    /// Says what is due, as far as there are slots. Returns in how many frames.
    pub(super) fn speak(&mut self, now: Instant, device: &mut Device) -> usize {
        if self.due.is_none_or(|due| due > now) {
            return 0;
        }
        let mut count = 0;
        let mut say = |group, joined| {
            let mut bytes = [0; LONGEST];
            let length = self.speaker.message(group, joined, &mut bytes);
            let said = length == 0 || device.send(bytes.get(..length).unwrap_or_default());
            count += usize::from(said && length > 0);
            said
        };
        self.left.retain(|group| !say(*group, false));
        for joined in self.joined.iter_mut().filter(|j| j.due.is_some_and(|due| due <= now)) {
            if !say(joined.group, true) {
                break;
            }
            joined.due = std::mem::take(&mut joined.again).then(|| now + AGAIN);
        }
        self.set_due(now);
        count
    }
}

impl Speaker {
    /// Writes the frame that says that a group is joined or left; returns its length, 0 if there is nothing to say: every host is in
    /// some groups (RFC 2236, 6; RFC 2710, 5).
    fn message(&self, group: IpAddr, joined: bool, into: &mut [u8; LONGEST]) -> usize {
        match group {
            IpAddr::V4(ALL_HOSTS) => 0,
            IpAddr::V4(group) => self.igmp(group, joined, into),
            IpAddr::V6(group) => {
                let [_, scope, rest @ .., last] = group.octets();
                let is_all_nodes = scope == 2 && rest == [0; 13] && last == 1;
                if scope & 0xf < 2 || is_all_nodes { 0 } else { self.mld(group, joined, into) }
            }
        }
    }

    fn igmp(&self, group: Ipv4Addr, joined: bool, into: &mut [u8; LONGEST]) -> usize {
        const LENGTH: usize = 14 + 24 + 8;
        let (kind, to) = if joined { (IGMP_REPORT, group) } else { (IGMP_LEAVE, ALL_ROUTERS) };
        let [_, b, c, d] = to.octets();
        let mut bytes = Writer { into, at: 0 };
        bytes.put(&[1, 0, 0x5e, b & 0x7f, c, d]);
        bytes.put(&self.mac);
        // Six words of header, the class of network control, and an option: a router should look at it (RFC 2113).
        bytes.put(&[8, 0, 0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0]);
        bytes.put(&self.v4.octets());
        bytes.put(&to.octets());
        bytes.put(&[148, 4, 0, 0]);
        let sum = sum(&[&[kind, 0, 0, 0], &group.octets()]);
        bytes.put(&[kind, 0]);
        bytes.put(&sum);
        bytes.put(&group.octets());
        if let Some(packet) = into.get_mut(14..LENGTH) {
            Ipv4Packet::new_unchecked(packet).fill_checksum();
        }
        LENGTH
    }

    fn mld(&self, group: Ipv6Addr, joined: bool, into: &mut [u8; LONGEST]) -> usize {
        const BODY: u8 = 24;
        let (kind, to) = if joined { (MLD_REPORT, group) } else { (MLD_DONE, ALL_ROUTERS6) };
        let [.., a, b, c, d] = to.octets();
        let mut bytes = Writer { into, at: 0 };
        bytes.put(&[0x33, 0x33, a, b, c, d]);
        bytes.put(&self.mac);
        bytes.put(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 8 + BODY, 0, 1]);
        bytes.put(&self.v6.octets());
        bytes.put(&to.octets());
        // Hop by hop: a router should look at it (RFC 2711), and two bytes of nothing.
        bytes.put(&[58, 0, 5, 2, 0, 0, 1, 0]);
        let message = [kind, 0, 0, 0, 0, 0, 0, 0];
        let (from, group) = (self.v6.octets(), group.octets());
        let sum = sum(&[&from, &to.octets(), &[0, BODY, 0, 58], &message, &group]);
        bytes.put(&[kind, 0]);
        bytes.put(&sum);
        bytes.put(&[0; 4]);
        bytes.put(&group);
        bytes.at
    }
}

/// Puts one piece after the other.
struct Writer<'a> {
    into: &'a mut [u8; LONGEST],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(place) = self.into.get_mut(self.at..end) {
            place.copy_from_slice(bytes);
            self.at = end;
        }
    }
}

/// The Internet checksum over pieces of even length.
fn sum(pieces: &[&[u8]]) -> [u8; 2] {
    let words = pieces.iter().flat_map(|piece| piece.as_chunks::<2>().0);
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [_, _, high, low] = (!folded).to_be_bytes();
    [high, low]
}

/// What lies behind the header of an IGMP packet or the options of an MLD packet, and whether it is IGMP.
fn message(frame: &[u8]) -> Option<(&[u8], bool)> {
    match frame.get(12..15)? {
        [8, 0, words] if frame.get(23) == Some(&2) => {
            Some((frame.get(14 + usize::from(words & 0xf) * 4..)?, true))
        }
        // Hop by hop options, as every message has.
        [0x86, 0xdd, _] if frame.get(20) == Some(&0) && frame.get(54) == Some(&58) => {
            Some((frame.get(54 + (usize::from(*frame.get(55)?) + 1) * 8..)?, false))
        }
        _ => None,
    }
}

/// Whether a frame says of a group that it is joined or left.
pub(crate) fn is_report(frame: &[u8]) -> bool {
    message(frame).is_some_and(|(message, is_v4)| match message.first() {
        Some(_) if is_v4 => true,
        Some(kind) => matches!(*kind, MLD_REPORT | MLD_DONE | MLD_REPORT_V2),
        None => false,
    })
}

/// What a router asks.
struct Question {
    /// `None`: all of a family.
    group: Option<IpAddr>,
    is_v4: bool,
    within: Duration,
}

impl Question {
    fn read(frame: &[u8]) -> Option<Self> {
        let (message, is_v4) = message(frame)?;
        let (group, milliseconds) = if is_v4 {
            let [IGMP_QUERY, tenths, _, _, group @ ..] = message.first_chunk::<8>()? else {
                return None;
            };
            (IpAddr::from(*group.first_chunk::<4>()?), u64::from(*tenths) * 100)
        } else {
            let [MLD_QUERY, _, _, _, high, low, _, _, group @ ..] = message.first_chunk::<24>()?
            else {
                return None;
            };
            let milliseconds = u64::from(u16::from_be_bytes([*high, *low]));
            (IpAddr::from(*group.first_chunk::<16>()?), milliseconds)
        };
        let group = Some(group).filter(|group| !group.is_unspecified());
        Some(Self { group, is_v4, within: Duration::from_millis(milliseconds) })
    }
}
