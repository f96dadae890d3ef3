//! Protocols without ports, as they are written: `gre`, `47`, `any`.

use super::service::protocol_name;
use crate::classify::Protocol;
use core::fmt;
use core::str::FromStr;
use thiserror::Error;

/// The text names no protocol that can be claimed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "must be `any`, or a protocol that has no ports: gre, esp, ipip, ipv6, l2tp, ospf, pim, vrrp, or a number; not \
     ICMP, ICMPv6, IGMP, nor a header that comes before another"
)]
pub struct NoProtocol;

/// A set of protocols that have no ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols(Vec<Protocol>);

fn all() -> impl Iterator<Item = Protocol> {
    let can = |p: &Protocol| p.can_be_claimed() && !p.has_ports();
    (0..=u8::MAX).map(Protocol).filter(can)
}

impl Protocols {
    /// All that can be claimed.
    #[must_use]
    pub fn any() -> Self {
        Self(all().collect())
    }

    /// Reads a list of texts.
    ///
    /// # Errors
    /// The index of the first that is refused.
    pub fn parse(texts: &[String]) -> Result<Self, (usize, NoProtocol)> {
        let mut set = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            set.extend(text.parse::<Self>().map_err(|refused| (index, refused))?.0);
        }
        set.sort_unstable();
        set.dedup();
        Ok(Self(set))
    }

    /// Whether a protocol is in the set.
    #[must_use]
    pub fn contains(&self, protocol: Protocol) -> bool {
        self.0.contains(&protocol)
    }
}

impl FromStr for Protocols {
    type Err = NoProtocol;

    fn from_str(text: &str) -> Result<Self, NoProtocol> {
        if text == "any" {
            return Ok(Self::any());
        }
        let is_it = |p: &Protocol| protocol_name(*p) == text || p.0.to_string() == text;
        all().find(is_it).map(|protocol| Self(vec![protocol])).ok_or(NoProtocol)
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::any() {
            return f.write_str("any");
        }
        let names: Vec<_> = self.0.iter().map(|p| protocol_name(*p)).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_by_name_and_number_and_only_such_as_can_be_claimed() {
        let read = |text: &str| Protocols::parse(&[text.to_owned()]);
        assert_eq!(read("gre"), read("47"));
        assert_eq!(read("gre").unwrap().to_string(), "gre");
        assert_eq!(read("200").unwrap().to_string(), "200");
        assert!(read("any").unwrap().contains(Protocol(50)));
        for text in ["tcp", "6", "icmp", "1", "58", "2", "44", "256", "", "GRE"] {
            assert_eq!(read(text), Err((0, NoProtocol)), "{text}");
        }
    }
}
