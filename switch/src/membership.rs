//! What a client says of groups: its IGMP and MLD reports.
//!
//! ```text
//!   IGMPv2 report, leave | IGMPv3 report | MLDv1 report, done | MLDv2 report --> joins and leaves
//! ```
//!
//! - A report is believed as hosts and routers believe it: it is a neighbour's (TTL or hop limit 1, router alert,
//!   RFC 2236, 3376, 2710, 3810), and it goes to the address, and the link address, that its kind goes to.
//! - Read from the private copy of the head, like all that is judged. A report that is longer is refused: the head
//!   has room for nine groups of IPv4 or two of IPv6, and who has more sends more reports.
//! - Sources are not looked at: a client that wants some of a group's gets all, and its stack chooses.

use crate::classify::{Address, Icmp, IpKind, IpPacket, Mac, Protocol};

/// Most records that a report can have in a head.
const MOST: usize = 10;

/// What a report says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Groups, and whether they are joined.
    records: [(Address, bool); MOST],
    count: usize,
}

impl Report {
    fn add(&mut self, group: Address, joined: bool) -> Option<()> {
        *self.records.get_mut(self.count)? = (group, joined);
        self.count += 1;
        Some(())
    }

    fn all(&self) -> impl Iterator<Item = (Address, bool)> + Clone + '_ {
        self.records.iter().copied().take(self.count)
    }

    /// All groups that it speaks of.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Address> + '_ {
        self.all().map(|(group, _)| group)
    }

    /// Groups that are joined, or still wanted.
    pub(crate) fn joined(&self) -> impl Iterator<Item = Address> + Clone + '_ {
        self.all().filter(|(_, joined)| *joined).map(|(group, _)| group)
    }

    /// Groups that are left.
    pub(crate) fn left(&self) -> impl Iterator<Item = Address> + '_ {
        self.all().filter(|(_, joined)| !joined).map(|(group, _)| group)
    }
}

/// Whether a packet is about groups.
pub(crate) fn is_of_groups(packet: &IpPacket) -> bool {
    matches!(packet.kind, IpKind::Igmp | IpKind::Icmp(Icmp::MulticastListener))
}

const IGMP_QUERY: u8 = 0x11;
const IGMP_REPORT: u8 = 0x16;
const IGMP_LEAVE: u8 = 0x17;
const IGMP_REPORT_V3: u8 = 0x22;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD_REPORT_V2: u8 = 143;

fn v4(bytes: &[u8]) -> Option<Address> {
    Some(Address::v4(bytes.try_into().ok()?))
}

fn v6(bytes: &[u8]) -> Option<Address> {
    Some(Address(bytes.try_into().ok()?))
}

/// What a router asks for in this packet about groups: one group, or all. `None` if it is no question.
pub(crate) fn question(packet: &IpPacket, frame: &[u8]) -> Option<Option<Address>> {
    let message = frame.get(packet.transport_offset.into()..packet.end.into())?;
    let (group, kind) = match packet.flow.protocol {
        Protocol::IGMP => (v4(message.get(4..8)?)?, IGMP_QUERY),
        _ => (v6(message.get(8..24)?)?, MLD_QUERY),
    };
    let is_all = group.to_ip().is_unspecified();
    (message.first() == Some(&kind)).then_some((!is_all).then_some(group))
}

/// Reads the report in a frame to `destination` that begins with `head`; `None` if it is none, or not as it has to
/// be.
pub(crate) fn report(packet: &IpPacket, destination: Mac, head: &[u8]) -> Option<Report> {
    let network = head.get(packet.network_offset.into()..packet.transport_offset.into())?;
    let message = head.get(packet.transport_offset.into()..packet.end.into())?;
    let is_v4 = packet.flow.protocol == Protocol::IGMP;
    let is_neighbors = if is_v4 { is_near_v4(network) } else { is_near_v6(network) };
    let (report, to) = if is_v4 { igmp(message)? } else { mld(message)? };
    let is_right = is_neighbors && packet.flow.destination == to && link_of(to) == destination;
    is_right.then_some(report)
}

/// The report, and where it has to go.
fn igmp(message: &[u8]) -> Option<(Report, Address)> {
    let mut report = Report::default();
    let group = v4(message.get(4..8)?)?;
    let to = match *message.first()? {
        IGMP_REPORT => {
            report.add(group, true)?;
            group
        }
        IGMP_LEAVE => {
            report.add(group, false)?;
            Address::v4([224, 0, 0, 2])
        }
        IGMP_REPORT_V3 => {
            records(message, 4, v4, &mut report)?;
            Address::v4([224, 0, 0, 22])
        }
        _ => return None,
    };
    Some((report, to))
}

fn mld(message: &[u8]) -> Option<(Report, Address)> {
    let link_local = |last| Address([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let mut report = Report::default();
    let to = match *message.first()? {
        MLD_REPORT => {
            let group = v6(message.get(8..24)?)?;
            report.add(group, true)?;
            group
        }
        MLD_DONE => {
            report.add(v6(message.get(8..24)?)?, false)?;
            link_local(2)
        }
        MLD_REPORT_V2 => {
            records(message, 16, v6, &mut report)?;
            link_local(22)
        }
        _ => return None,
    };
    Some((report, to))
}

/// Reads the records of an IGMPv3 or MLDv2 report, which have one form but for the size of addresses.
fn records(
    message: &[u8],
    size: usize,
    address: fn(&[u8]) -> Option<Address>,
    report: &mut Report,
) -> Option<()> {
    const INCLUDES: u8 = 1;
    const EXCLUDES: u8 = 2;
    const TO_INCLUDE: u8 = 3;
    const TO_EXCLUDE: u8 = 4;
    const ALLOWS: u8 = 5;
    const BLOCKS: u8 = 6;
    let count = u16::from_be_bytes(message.get(6..8)?.try_into().ok()?);
    let mut rest = message.get(8..)?;
    for _ in 0..count {
        let [kind, 0, high, low] = *rest.first_chunk::<4>()? else { return None };
        let sources = usize::from(u16::from_be_bytes([high, low]));
        let group = address(rest.get(4..4 + size)?)?;
        match (kind, sources) {
            (EXCLUDES | TO_EXCLUDE, _) | (INCLUDES | TO_INCLUDE | ALLOWS, 1..) => {
                report.add(group, true)?;
            }
            (INCLUDES | TO_INCLUDE, 0) => report.add(group, false)?,
            // Of what it has joined it wants less; it is told all the same.
            (ALLOWS | BLOCKS, _) => {}
            _ => return None,
        }
        rest = rest.get(4 + size + sources * size..)?;
    }
    Some(())
}

/// Whether an IPv4 packet goes no further than the link, with a router alert (RFC 2113).
fn is_near_v4(header: &[u8]) -> bool {
    const ROUTER_ALERT: u8 = 148;
    let mut options = header.get(20..).unwrap_or_default();
    let mut alerts = false;
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (0, _) => break,
            (1, rest) => rest,
            (kind, [length, ..]) => {
                alerts |= kind == ROUTER_ALERT;
                options.get(usize::from((*length).max(2))..).unwrap_or_default()
            }
            _ => break,
        };
    }
    header.get(8) == Some(&1) && alerts
}

/// Whether an IPv6 packet goes no further than the link, with a router alert for MLD (RFC 2711).
fn is_near_v6(headers: &[u8]) -> bool {
    const ROUTER_ALERT: u8 = 5;
    let mut options = headers.get(42..).unwrap_or_default();
    let mut alerts = false;
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (0, rest) => rest,
            (kind, [length, data @ ..]) => {
                alerts |= kind == ROUTER_ALERT && data.starts_with(&[0, 0]);
                data.get(usize::from(*length)..).unwrap_or_default()
            }
            _ => break,
        };
    }
    let has_options_alone = headers.get(6) == Some(&0) && headers.get(40) == Some(&58);
    headers.get(7) == Some(&1) && has_options_alone && alerts
}

/// The link address of a group (RFC 1112, 6.4; RFC 2464, 7).
fn link_of(group: Address) -> Mac {
    let [.., a, b, c, d] = group.0;
    match group.v4_part() {
        Some([_, b, c, d]) => Mac([1, 0, 0x5e, b & 0x7f, c, d]),
        None => Mac([0x33, 0x33, a, b, c, d]),
    }
}
