//! Which frames a capture wants: a few words of what `tcpdump` reads.
//!
//! ```text
//!   tcp port 443 and not host 192.0.2.7       (udp or icmp) and src net 10.0.0.0/8
//! ```
//!
//! Judged on what the classifier says of a frame, so that a capture and the switch agree on what is what.
//! `not` binds before `and`, `and` before `or`. Protocols before `host`, `net` and `port` are read as with `and`.

use crate::classify::{Address, Classified, Flow, Payload, Protocol};
use core::net::IpAddr;

/// How deep parentheses may go.
const DEEPEST: u32 = 32;

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Source,
    Destination,
    Either,
}

/// What a frame must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Any frame.
    All,
    /// Not that.
    Not(Box<Self>),
    /// Both.
    And(Box<Self>, Box<Self>),
    /// One of both, or both.
    Or(Box<Self>, Box<Self>),
    #[doc(hidden)]
    One(Primitive),
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Primitive {
    Arp,
    Ip { six: bool },
    Protocol(Protocol),
    Net(EndIs, Address, u8),
    Port(EndIs, u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct EndIs(End);

impl EndIs {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self.0 {
            End::Source => source,
            End::Destination => destination,
            End::Either => source || destination,
        }
    }
}

fn is_within(address: Address, net: Address, bits: u8) -> bool {
    let differ = u128::from_be_bytes(address.0) ^ u128::from_be_bytes(net.0);
    differ.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
}

impl Primitive {
    fn wants(&self, seen: Option<&Classified>) -> bool {
        let flow: Option<&Flow> = match seen.map(|seen| &seen.payload) {
            Some(Payload::Ip(packet)) => Some(&packet.flow),
            Some(Payload::Arp(_)) => return *self == Self::Arp,
            _ => None,
        };
        let Some(flow) = flow else { return false };
        match self {
            Self::Arp => false,
            Self::Ip { six } => flow.source.v4_part().is_none() == *six,
            Self::Protocol(protocol) => flow.protocol == *protocol,
            Self::Net(end, net, bits) => end.holds(
                is_within(flow.source, *net, *bits),
                is_within(flow.destination, *net, *bits),
            ),
            Self::Port(end, first, last) => {
                let range = *first..=*last;
                flow.ports_known
                    && flow.protocol.has_ports()
                    && end.holds(
                        range.contains(&flow.source_port),
                        range.contains(&flow.destination_port),
                    )
            }
        }
    }
}

impl Filter {
    /// Whether it wants a frame; `None` for one that cannot be read.
    #[must_use]
    pub fn wants(&self, seen: Option<&Classified>) -> bool {
        match self {
            Self::All => true,
            Self::Not(inner) => !inner.wants(seen),
            Self::And(a, b) => a.wants(seen) && b.wants(seen),
            Self::Or(a, b) => a.wants(seen) || b.wants(seen),
            Self::One(primitive) => primitive.wants(seen),
        }
    }

    /// Reads an expression; no words want every frame.
    ///
    /// # Errors
    /// Which word is wrong, and what could stand there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('!', " not ");
        let mut words = Words { all: spaced.split_whitespace().collect(), at: 0 };
        if words.all.is_empty() {
            return Ok(Self::All);
        }
        let filter = words.any(0)?;
        match words.next() {
            None => Ok(filter),
            Some(word) => {
                Err(format!("filter: {word:?} stands where `and`, `or` or the end should"))
            }
        }
    }
}

struct Words<'a> {
    all: Vec<&'a str>,
    at: usize,
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.all.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.at += 1;
        Some(word)
    }

    fn take(&mut self, one_of: &[&str]) -> bool {
        let is_it = self.peek().is_some_and(|word| one_of.contains(&word));
        self.at += usize::from(is_it);
        is_it
    }

    fn any(&mut self, depth: u32) -> Result<Filter, String> {
        let mut left = self.all_of(depth)?;
        while self.take(&["or", "||"]) {
            left = Filter::Or(Box::new(left), Box::new(self.all_of(depth)?));
        }
        Ok(left)
    }

    fn all_of(&mut self, depth: u32) -> Result<Filter, String> {
        let mut left = self.one(depth)?;
        while self.take(&["and", "&&"]) {
            left = Filter::And(Box::new(left), Box::new(self.one(depth)?));
        }
        Ok(left)
    }

    fn one(&mut self, depth: u32) -> Result<Filter, String> {
        if depth > DEEPEST {
            return Err("filter: too many parentheses, or `not`s".to_owned());
        }
        if self.take(&["not"]) {
            return Ok(Filter::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take(&["("]) {
            let inner = self.any(depth + 1)?;
            if self.take(&[")"]) {
                return Ok(inner);
            }
            return Err("filter: a parenthesis is not closed".to_owned());
        }
        let protocol = self.protocol();
        if let Some(protocol) = &protocol
            && self
                .peek()
                .is_none_or(|w| !matches!(w, "src" | "dst" | "host" | "net" | "port" | "portrange"))
        {
            return Ok(Filter::One(protocol.clone()));
        }
        let second = Filter::One(self.place()?);
        Ok(match protocol {
            Some(first) => Filter::And(Box::new(Filter::One(first)), Box::new(second)),
            None => second,
        })
    }

    fn protocol(&mut self) -> Option<Primitive> {
        let primitive = match self.peek()? {
            "arp" => Primitive::Arp,
            "ip" => Primitive::Ip { six: false },
            "ip6" => Primitive::Ip { six: true },
            "tcp" => Primitive::Protocol(Protocol::TCP),
            "udp" => Primitive::Protocol(Protocol::UDP),
            "sctp" => Primitive::Protocol(Protocol::SCTP),
            "icmp" => Primitive::Protocol(Protocol::ICMP),
            "icmp6" => Primitive::Protocol(Protocol::ICMPV6),
            _ => return None,
        };
        self.at += 1;
        Some(primitive)
    }

    fn place(&mut self) -> Result<Primitive, String> {
        let end = EndIs(match self.peek() {
            Some("src") => End::Source,
            Some("dst") => End::Destination,
            _ => End::Either,
        });
        self.at += usize::from(end.0 != End::Either);
        let kind = self.next();
        let value = self.peek().unwrap_or("");
        let wrong =
            |what: &str| format!("filter: {value:?} after `{}` is no {what}", kind.unwrap_or(""));
        let primitive = match kind {
            Some("host") => {
                let ip: IpAddr = value.parse().map_err(|_| wrong("address"))?;
                Primitive::Net(end, ip.into(), 128)
            }
            Some("net") => {
                let (ip, bits) = value.split_once('/').ok_or_else(|| wrong("ADDRESS/BITS"))?;
                let ip: IpAddr = ip.parse().map_err(|_| wrong("ADDRESS/BITS"))?;
                let widest = if ip.is_ipv4() { 32 } else { 128 };
                let bits = bits.parse().ok().filter(|bits| *bits <= widest);
                let bits: u8 = bits.ok_or_else(|| wrong("ADDRESS/BITS"))?;
                Primitive::Net(end, ip.into(), bits + (128 - widest))
            }
            Some("port") => {
                let port = value.parse().map_err(|_| wrong("port"))?;
                Primitive::Port(end, port, port)
            }
            Some("portrange") => {
                let range = value
                    .split_once('-')
                    .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                let (first, last) = range.ok_or_else(|| wrong("FIRST-LAST"))?;
                Primitive::Port(end, first, last)
            }
            other => {
                let forms = "a protocol (tcp, udp, sctp, icmp, icmp6, arp, ip, ip6), `not`, `(`, or \
                             `src` or `dst` and host, net, port or portrange";
                return Err(format!("filter: {:?} is not {forms}", other.unwrap_or("the end")));
            }
        };
        self.at += 1;
        Ok(primitive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Mac, classify};
    use crate::explain::Question;

    fn wants(filter: &str, words: &str) -> bool {
        let frame = Question::parse(words).unwrap().frame(Mac::default());
        Filter::parse(filter).unwrap().wants(classify(&frame).ok().as_ref())
    }

    #[test]
    fn an_expression_wants_what_it_says() {
        let tcp = "e tcp 192.0.2.7:5000 10.0.0.1:80";
        for filter in [
            "",
            "tcp",
            "ip",
            "port 80",
            "tcp port 5000",
            "dst port 80",
            "src host 192.0.2.7",
            "net 10.0.0.0/8",
            "dst net 10.0.0.0/31 and portrange 79-81",
            "not udp",
            "!udp && !(host 10.9.9.9)",
            "udp or tcp",
            "(udp or tcp) and not port 81",
            // `and` binds first.
            "tcp or udp and port 1",
        ] {
            assert!(wants(filter, tcp), "{filter}");
        }
        for filter in [
            "udp",
            "ip6",
            "arp",
            "src port 80",
            "udp port 80",
            "host 10.0.0.2",
            "net 10.0.0.2/31",
            "not tcp",
            "tcp and not host 10.0.0.1",
            "(tcp or udp) and port 1",
        ] {
            assert!(!wants(filter, tcp), "{filter}");
        }
        assert!(wants("icmp6 and host 2001:db8::1", "e icmp 2001:db8::7 2001:db8::1"));
        assert!(!wants("port 0", "e icmp 192.0.2.7 10.0.0.1"));
        assert!(
            Filter::parse("not tcp").unwrap().wants(None)
                && !Filter::parse("tcp").unwrap().wants(None)
        );
    }

    #[test]
    fn a_wrong_expression_is_told_which_word_is_wrong() {
        for (filter, says) in [
            ("fish", "\"fish\" is not a protocol"),
            ("host fish", "\"fish\" after `host` is no address"),
            ("port 70000", "\"70000\" after `port` is no port"),
            ("net 10.0.0.0/33", "\"10.0.0.0/33\" after `net`"),
            ("tcp udp", "\"udp\" stands where"),
            ("(tcp", "not closed"),
            ("tcp and", "\"the end\" is not"),
            ("portrange 5", "FIRST-LAST"),
        ] {
            let error = Filter::parse(filter).unwrap_err();
            assert!(error.contains(says), "{filter}: {error}");
        }
        assert!(Filter::parse(&"not ".repeat(200)).unwrap_err().contains("too many"));
        assert!(Filter::parse(&"(".repeat(200)).unwrap_err().contains("too many"));
    }
}
