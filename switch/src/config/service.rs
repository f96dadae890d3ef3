//! Sets of ports by protocol, as they are written: `tcp/80`, `udp/8000-8010`, `any`.

use crate::classify::Protocol;
use core::fmt;
use core::ops::RangeInclusive;
use core::str::FromStr;
use thiserror::Error;

const NAMES: [(&str, Protocol); 5] = [
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("udplite", Protocol::UDP_LITE),
    ("sctp", Protocol::SCTP),
    ("dccp", Protocol::DCCP),
];

/// Protocols without ports.
const WHOLE: [(&str, Protocol); 8] = [
    ("ipip", Protocol(4)),
    ("ipv6", Protocol(41)),
    ("gre", Protocol(47)),
    ("esp", Protocol::ENCRYPTED),
    ("ospf", Protocol(89)),
    ("pim", Protocol(103)),
    ("vrrp", Protocol(112)),
    ("l2tp", Protocol(115)),
];

/// The name of a protocol, or its number.
#[must_use]
pub(crate) fn protocol_name(protocol: Protocol) -> String {
    let named = NAMES.iter().chain(&WHOLE).find(|(_, p)| *p == protocol);
    named.map_or_else(|| protocol.0.to_string(), |(name, _)| (*name).to_owned())
}

/// The number of a protocol that [`protocol_name`] has named.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    let named = NAMES.iter().chain(&WHOLE).find(|(known, _)| *known == name);
    named.map(|(_, protocol)| protocol.0).or_else(|| name.parse().ok())
}

/// The text names no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "must be `any`, or a protocol (tcp, udp, udplite, sctp, dccp), alone or with a port 1..=65535 or \
     a range of ports: `tcp/80`, `udp/8000-8010`"
)]
pub struct Refused;

/// A set of (protocol, port).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Sorted; ranges of one protocol neither overlap nor touch.
    ranges: Vec<(Protocol, RangeInclusive<u16>)>,
}

impl Services {
    /// Every port of every protocol that has ports.
    #[must_use]
    pub fn any() -> Self {
        Self::of(NAMES.iter().map(|(_, p)| (*p, 1..=u16::MAX)).collect())
    }

    /// What a user without privileges may have on an ordinary host: TCP and UDP from 1024.
    #[must_use]
    pub fn unprivileged() -> Self {
        Self::of(vec![(Protocol::TCP, 1024..=u16::MAX), (Protocol::UDP, 1024..=u16::MAX)])
    }

    /// The set of these ranges.
    #[must_use]
    pub fn of(mut ranges: Vec<(Protocol, RangeInclusive<u16>)>) -> Self {
        ranges.sort_by_key(|(protocol, range)| (*protocol, *range.start()));
        let mut merged: Vec<(Protocol, RangeInclusive<u16>)> = Vec::with_capacity(ranges.len());
        for (protocol, range) in ranges {
            match merged.last_mut() {
                Some((p, last))
                    if *p == protocol && *range.start() <= last.end().saturating_add(1) =>
                {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push((protocol, range)),
            }
        }
        Self { ranges: merged }
    }

    /// Reads a list of texts.
    ///
    /// # Errors
    /// The index of the first that is refused.
    pub fn parse(texts: &[String]) -> Result<Self, (usize, Refused)> {
        let mut ranges = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            ranges.extend(text.parse::<Self>().map_err(|refused| (index, refused))?.ranges);
        }
        Ok(Self::of(ranges))
    }

    /// Whether all `count` ports from `first` are in the set.
    #[must_use]
    pub fn contains(&self, protocol: Protocol, first: u16, count: u16) -> bool {
        let last = u32::from(first) + u32::from(count.max(1)) - 1;
        self.of_protocol(protocol)
            .any(|range| *range.start() <= first && last <= u32::from(*range.end()))
    }

    /// The ranges of one protocol, ascending.
    pub fn of_protocol(
        &self,
        protocol: Protocol,
    ) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.ranges.iter().filter(move |(p, _)| *p == protocol).map(|(_, range)| range.clone())
    }

    /// All ranges.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, RangeInclusive<u16>)> + '_ {
        self.ranges.iter().cloned()
    }

    /// As a list of texts that [`parse`](Self::parse) reads.
    #[must_use]
    pub fn to_texts(&self) -> Vec<String> {
        if *self == Self::any() {
            return vec!["any".to_owned()];
        }
        let text = |(protocol, range): &(Protocol, RangeInclusive<u16>)| {
            let name = protocol_name(*protocol);
            match (*range.start(), *range.end()) {
                (1, u16::MAX) => name,
                (first, last) if first == last => format!("{name}/{first}"),
                (first, last) => format!("{name}/{first}-{last}"),
            }
        };
        self.ranges.iter().map(text).collect()
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_texts().join(", "))
    }
}

impl FromStr for Services {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        if text == "any" {
            return Ok(Self::any());
        }
        let (name, ports) = match text.split_once('/') {
            Some((name, ports)) => (name, Some(ports)),
            None => (text, None),
        };
        let (_, protocol) = NAMES.iter().find(|(n, _)| *n == name).ok_or(Refused)?;
        let range = match ports {
            None => 1..=u16::MAX,
            Some(ports) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let port = |text: &str| text.parse::<u16>().map_err(|_| Refused);
                port(first)?..=port(last)?
            }
        };
        if *range.start() == 0 || range.is_empty() {
            return Err(Refused);
        }
        Ok(Self::of(vec![(*protocol, range)]))
    }
}
