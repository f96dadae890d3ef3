//! Who would get a frame, and why: the question, and the answer step by step.
//!
//! ```text
//!   "eth0 tcp 192.0.2.7:5000 10.0.0.1:80" --> Question --> a frame --> classify, steer --> Explained
//! ```
//!
//! The frame is made and goes the way of every frame, up to where it would be delivered. What decides is
//! what steers; the steps say what each table holds about it, in the order in which they are asked.

use crate::classify::Mac;
use crate::verdict::{DropReason, Receiver};
use core::fmt;
use core::net::{IpAddr, SocketAddr};

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    Tcp,
    Udp,
    /// An echo request.
    Icmp,
    /// The answer to one.
    EchoReply,
}

impl Carried {
    const ALL: [(Self, &str); 4] = [
        (Self::Tcp, "tcp"),
        (Self::Udp, "udp"),
        (Self::Icmp, "icmp"),
        (Self::EchoReply, "echo-reply"),
    ];

    /// The protocol's number over IPv4.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp | Self::EchoReply => 1,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(carried, _)| *carried == self).map_or("?", |(_, name)| name)
    }
}

/// A frame that might arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) ifname: String,
    pub(crate) carried: Carried,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

impl Question {
    /// Reads `INTERFACE PROTOCOL SOURCE DESTINATION`.
    ///
    /// # Errors
    /// Which word is wrong, and what it should be.
    pub(crate) fn parse(words: &str) -> Result<Self, String> {
        let all: Vec<&str> = words.split_whitespace().collect();
        let [ifname, protocol, source, destination] = all[..] else {
            let count = all.len();
            return Err(format!(
                "{count} words instead of four: INTERFACE PROTOCOL SOURCE DESTINATION"
            ));
        };
        let named = |(_, name): &&(Carried, &str)| *name == protocol;
        let carried = Carried::ALL.iter().find(named).map(|(carried, _)| *carried);
        let must = "must be tcp, udp, icmp or echo-reply";
        let carried = carried.ok_or_else(|| format!("protocol {protocol:?}: {must}"))?;
        let source = end(SOURCE, source, carried)?;
        let destination = end("destination", destination, carried)?;
        if source.is_ipv4() != destination.is_ipv4() {
            let text =
                format!("{} and {}: one is IPv4 and one IPv6", source.ip(), destination.ip());
            return Err(text);
        }
        Ok(Self { ifname: ifname.to_owned(), carried, source, destination })
    }

    /// The frame, for the link address `mac`: the shortest that is well-formed.
    pub(crate) fn frame(&self, mac: Mac) -> Vec<u8> {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()];
        let is_v4 = self.source.is_ipv4();
        let (protocol, body): (u8, Vec<u8>) = match self.carried {
            // Five words, SYN.
            Carried::Tcp => {
                let rest = [0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
                (6, [&ports.concat()[..], &rest].concat())
            }
            Carried::Udp => (17, [&ports.concat()[..], &[0, 8, 0, 0]].concat()),
            Carried::Icmp if is_v4 => (1, vec![8, 0, 0, 0, 0, 1, 0, 1]),
            Carried::Icmp => (58, vec![128, 0, 0, 0, 0, 1, 0, 1]),
            Carried::EchoReply => {
                let [_, [high, low]] = ports;
                let (protocol, kind) = if is_v4 { (1, 0) } else { (58, 129) };
                (protocol, vec![kind, 0, 0, 0, high, low, 0, 1])
            }
        };
        let length = u16::try_from(body.len()).unwrap_or(0);
        let sender = [2, 0, 0, 0, 0, 0xfe];
        let mut frame = [&mac.0[..], &sender].concat();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend((20 + length).to_be_bytes());
                // Whole, may not be cut; the checksum is not looked at.
                frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            (source, destination) => {
                let bytes = |ip| match ip {
                    IpAddr::V4(ip) => core::net::Ipv4Addr::to_ipv6_mapped(&ip).octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([protocol, 64]);
                frame.extend(bytes(source));
                frame.extend(bytes(destination));
            }
        }
        frame.extend(body);
        frame
    }
}

const SOURCE: &str = "source";

/// One end: an address, and a port where the protocol has them, or the identifier that a reply repeats.
fn end(which: &str, text: &str, carried: Carried) -> Result<SocketAddr, String> {
    if carried == Carried::Icmp || carried == Carried::EchoReply && which == SOURCE {
        let ip: Result<IpAddr, _> = text.parse();
        return ip.map(|ip| SocketAddr::new(ip, 0)).map_err(|_| {
            format!(
                "{which} {text:?}: must be an address without port, as {} has none",
                carried.name()
            )
        });
    }
    let parsed = text.parse();
    parsed.map_err(|_| {
        let form = match carried {
            Carried::EchoReply => {
                "must be ADDRESS:IDENTIFIER, as in 10.0.0.1:77 or [2001:db8::1]:77"
            }
            _ => "must be ADDRESS:PORT, as in 192.0.2.7:5000 or [2001:db8::7]:5000",
        };
        format!("{which} {text:?}: {form}")
    })
}

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What was looked at.
    pub(crate) at: &'static str,
    /// Whose it is, if that was found.
    pub(crate) found: Option<Receiver>,
    /// In words, which go on with the owner where there is one.
    pub(crate) says: String,
}

/// What would become of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    To(Receiver),
    /// A copy for each.
    ToMany(Vec<Receiver>),
    /// The kernel has heard it on the interface by itself.
    Heard,
    /// The switch answers it.
    Answered,
    Dropped(DropReason),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Explained {
    pub(crate) steps: Vec<Step>,
    pub(crate) outcome: Outcome,
}

impl Explained {
    /// Adds a step.
    pub(crate) fn step(
        &mut self,
        at: &'static str,
        found: Option<Receiver>,
        says: impl fmt::Display,
    ) {
        self.steps.push(Step { at, found, says: says.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{Icmp, IpKind, Payload, Protocol, classify};

    #[test]
    fn a_question_that_is_wrong_is_told_which_word_and_why() {
        let wrong = [
            ("eth0 tcp 10.0.0.1:80", "3 words instead of four"),
            (
                "eth0 gre 192.0.2.7:1 10.0.0.1:80",
                "protocol \"gre\": must be tcp, udp, icmp or echo-reply",
            ),
            ("eth0 tcp 192.0.2.7 10.0.0.1:80", "source \"192.0.2.7\": must be ADDRESS:PORT"),
            ("eth0 udp 192.0.2.7:1 10.0.0.1:80000", "destination \"10.0.0.1:80000\": must be"),
            (
                "eth0 icmp 192.0.2.7:1 10.0.0.1",
                "source \"192.0.2.7:1\": must be an address without",
            ),
            ("eth0 tcp 192.0.2.7:1 [fd00::1]:80", "one is IPv4 and one IPv6"),
            (
                "eth0 echo-reply 192.0.2.7 10.0.0.1",
                "destination \"10.0.0.1\": must be ADDRESS:IDENTIFIER",
            ),
            (
                "eth0 echo-reply 192.0.2.7:1 10.0.0.1:1",
                "source \"192.0.2.7:1\": must be an address",
            ),
        ];
        for (words, says) in wrong {
            let error = Question::parse(words).unwrap_err();
            assert!(error.contains(says), "{words}: {error}");
        }
    }

    #[test]
    fn the_frame_of_a_question_is_read_as_what_was_asked() {
        let ends = [("192.0.2.7", "10.0.0.1"), ("2001:db8::7", "2001:db8::1")];
        for ((source, destination), carried) in
            ends.into_iter().flat_map(|e| Carried::ALL.map(|c| (e, c.0)))
        {
            let port = |n| if carried == Carried::Icmp { 0 } else { n };
            let from = if carried == Carried::EchoReply { 0 } else { port(5000) };
            let source = SocketAddr::new(source.parse().unwrap(), from);
            let destination = SocketAddr::new(destination.parse().unwrap(), port(80));
            let question = Question { ifname: "e".into(), carried, source, destination };
            let mac = Mac([2, 0, 0, 0, 0, 1]);
            let seen = classify(&question.frame(mac)).unwrap();
            assert_eq!(seen.destination, mac);
            let Payload::Ip(packet) = seen.payload else { panic!("{seen:?}") };
            let flow = packet.flow;
            assert_eq!(
                (flow.source.to_ip(), flow.destination.to_ip()),
                (source.ip(), destination.ip())
            );
            match carried {
                Carried::Icmp => assert_eq!(packet.kind, IpKind::Icmp(Icmp::EchoRequest)),
                Carried::EchoReply => {
                    assert_eq!(packet.kind, IpKind::Icmp(Icmp::EchoReply));
                    assert_eq!((flow.source_port, flow.destination_port), (80, 80));
                }
                Carried::Tcp => assert_eq!(flow.protocol, Protocol::TCP),
                Carried::Udp => assert_eq!(flow.protocol, Protocol::UDP),
            }
            if matches!(carried, Carried::Tcp | Carried::Udp) {
                assert_eq!((flow.source_port, flow.destination_port), (5000, 80));
            }
        }
    }
}
