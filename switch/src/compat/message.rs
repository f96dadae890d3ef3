//! The six messages of usnetd 0.1, as JSON, and what is said back.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the longest request.
pub const LONGEST: usize = 4000;
/// The answer to what was granted.
pub const GRANTED: &[u8] = b"OK";
/// The answer to what was not.
pub const REFUSED: &[u8] = b"ER";
/// Comes with the descriptor that frames pass through.
pub const HANDED_OVER: &[u8] = b"$";

/// What a program asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum Request {
    /// To attach to an interface. The process number is the program's own statement, and means nothing.
    RequestUDS(String, i64),
    /// The same, over a pipe of netmap.
    RequestNetmapPipe(String, i64),
    /// A claim.
    AddMatch(Match),
    /// Gives it back. No answer is expected.
    RemoveMatch(Match),
    /// Detaches. No answer is expected.
    DeleteClient,
    /// Which ports are in use.
    QueryUsedPorts,
}

impl Request {
    /// Reads a datagram. `None` if it is none of these.
    #[must_use]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        serde_json::from_slice(datagram).ok()
    }

    /// Whether the program waits for an answer.
    #[must_use]
    pub fn wants_answer(&self) -> bool {
        !matches!(self, Self::RemoveMatch(_) | Self::DeleteClient)
    }
}

/// An address as it is written: `{"Ipv4":"10.9.0.1"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WrittenAddress {
    /// IPv4.
    Ipv4(Ipv4Addr),
    /// IPv6.
    Ipv6(Ipv6Addr),
}

impl From<IpAddr> for WrittenAddress {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::Ipv4(v4),
            IpAddr::V6(v6) => Self::Ipv6(v6),
        }
    }
}

impl From<WrittenAddress> for IpAddr {
    fn from(address: WrittenAddress) -> Self {
        match address {
            WrittenAddress::Ipv4(v4) => v4.into(),
            WrittenAddress::Ipv6(v6) => v6.into(),
        }
    }
}

/// Which frames are a program's, as seen by who sends to it: `dst` is the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The program's address; all of its own if left out.
    #[serde(default)]
    pub dst_addr: Option<WrittenAddress>,
    /// Its port.
    #[serde(default)]
    pub dst_port: Option<u16>,
    /// The other side's address.
    #[serde(default)]
    pub src_addr: Option<WrittenAddress>,
    /// The other side's port.
    #[serde(default)]
    pub src_port: Option<u16>,
    /// Number of the protocol.
    pub protocol: u8,
}

/// A claim as today's protocol has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Number of the protocol.
    pub protocol: u8,
    /// The address; all of the session's own if there is none.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// The other side's address, if it has to be this one.
    pub remote: Option<IpAddr>,
    /// The other side's port; 0 is any.
    pub remote_port: u16,
}

impl Match {
    /// The claim that it is, or why there is none.
    ///
    /// # Errors
    /// What cannot be claimed, in words.
    pub fn wish(&self) -> Result<Wish, &'static str> {
        let port = self.dst_port.filter(|port| *port != 0);
        let port = port.ok_or("a match needs the program's port")?;
        let (address, remote) = (self.dst_addr.map(IpAddr::from), self.src_addr.map(IpAddr::from));
        if address.zip(remote).is_some_and(|(a, b)| a.is_ipv4() != b.is_ipv4()) {
            return Err("the two addresses of a match are of different families");
        }
        let remote_port = self.src_port.unwrap_or(0);
        Ok(Wish { protocol: self.protocol, address, port, remote, remote_port })
    }
}

/// A protocol, an address and a port, in this order.
pub type UsedPort = (u8, WrittenAddress, u16);

/// The answer to [`Request::QueryUsedPorts`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsedPorts {
    /// Ports that somebody waits at.
    pub listening: Vec<UsedPort>,
    /// Ports of flows.
    pub connected: Vec<UsedPort>,
}

#[derive(Serialize)]
enum Answer<'a> {
    QueryUsedPortsAnswer(&'a UsedPorts),
}

impl UsedPorts {
    /// As it goes out.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(&Answer::QueryUsedPortsAnswer(self)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_predecessors_own_words_are_understood() {
        let read = |text: &str| Request::read(text.as_bytes());
        assert_eq!(
            read(r#"{"RequestUDS":["sv0",123]}"#),
            Some(Request::RequestUDS("sv0".to_owned(), 123))
        );
        assert_eq!(
            read(r#"{"RequestNetmapPipe":["sv0",-1]}"#),
            Some(Request::RequestNetmapPipe("sv0".to_owned(), -1))
        );
        assert_eq!(read(r#""DeleteClient""#), Some(Request::DeleteClient));
        assert_eq!(read(r#""QueryUsedPorts""#), Some(Request::QueryUsedPorts));
        let full = r#"{"AddMatch":{"dst_addr":{"Ipv4":"10.9.0.1"},"dst_port":80,
            "src_addr":null,"src_port":null,"protocol":6}}"#;
        let short = r#"{"AddMatch":{"dst_addr":{"Ipv4":"10.9.0.1"},"dst_port":80,"protocol":6}}"#;
        let Some(Request::AddMatch(matched)) = read(full) else { panic!("no match") };
        assert_eq!(read(short), Some(Request::AddMatch(matched)));
        let address = Some(IpAddr::from([10, 9, 0, 1]));
        let wish = Wish { protocol: 6, address, port: 80, remote: None, remote_port: 0 };
        assert_eq!(matched.wish(), Ok(wish));
        let sender = r#"{"AddMatch":{"dst_addr":{"Ipv4":"10.9.0.1"},"dst_port":80,
            "src_addr":{"Ipv4":"10.9.0.2"},"src_port":7,"protocol":6}}"#;
        let remote = Some(IpAddr::from([10, 9, 0, 2]));
        let Some(Request::AddMatch(matched)) = read(sender) else { panic!("no match") };
        assert_eq!(matched.wish(), Ok(Wish { remote, remote_port: 7, ..wish }));
        let v6 = r#"{"RemoveMatch":{"dst_addr":{"Ipv6":"fd09::1"},"dst_port":80,"protocol":17}}"#;
        assert!(matches!(read(v6), Some(Request::RemoveMatch(m)) if m.wish().is_ok()));
    }

    #[test]
    fn what_is_no_message_is_none_and_what_cannot_be_claimed_is_said() {
        for text in ["end", "cleanup", "", "{}", "\u{fffd}", r#"{"AddMatch":{}}"#, "[1]", "null"] {
            assert_eq!(Request::read(text.as_bytes()), None, "{text}");
        }
        let matched = |text: &str| match Request::read(text.as_bytes()) {
            Some(Request::AddMatch(matched)) => matched.wish(),
            other => panic!("{other:?}"),
        };
        assert!(matched(r#"{"AddMatch":{"protocol":6}}"#).is_err());
        assert!(matched(r#"{"AddMatch":{"dst_port":0,"protocol":6}}"#).is_err());
        assert!(matched(r#"{"AddMatch":{"src_port":1,"protocol":6}}"#).is_err());
        let other = r#"{"AddMatch":{"dst_addr":{"Ipv4":"10.9.0.1"},"dst_port":80,
            "src_addr":{"Ipv6":"fd09::2"},"protocol":6}}"#;
        assert!(matched(other).is_err());
    }

    #[test]
    fn used_ports_are_written_as_the_predecessor_wrote_them() {
        let used = UsedPorts {
            listening: vec![(6, IpAddr::from([10, 9, 0, 1]).into(), 8080)],
            connected: Vec::new(),
        };
        assert_eq!(
            String::from_utf8(used.write()).unwrap(),
            r#"{"QueryUsedPortsAnswer":{"listening":[[6,{"Ipv4":"10.9.0.1"},8080]],"connected":[]}}"#
        );
    }
}
