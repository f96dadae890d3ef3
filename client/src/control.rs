//! The control connection of a session: one request at a time, each with its answer.

use crate::error::RequestError;
use rustix::net::{RecvFlags, SendFlags};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use usnet_shmring::control::{
    self, Address, Channel, ChannelError, Message, RefusalCode, name_from,
};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// Ports that a client wants or has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// IP protocol.
    pub protocol: u8,
    /// Local address; `None` means every address of the session.
    pub address: Option<IpAddr>,
    /// First port; in a wish, 0 asks for any free block.
    pub first_port: u16,
    /// Number of ports, at least 1.
    pub count: u16,
}

impl Claim {
    /// One port on every address of the session; 0 asks for any.
    #[must_use]
    pub const fn port(protocol: u8, port: u16) -> Self {
        Self { protocol, address: None, first_port: port, count: 1 }
    }

    /// Any free block of `count` ports.
    #[must_use]
    pub const fn any(protocol: u8, count: u16) -> Self {
        Self { protocol, address: None, first_port: 0, count }
    }

    fn to_message(self) -> control::Claim {
        let full = |ip: IpAddr| Address::new(ip, if ip.is_ipv4() { 32 } else { 128 });
        control::Claim {
            address: self.address.map(full).unwrap_or_default(),
            first_port: self.first_port,
            count: self.count,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }

    fn from_message(claim: &control::Claim) -> Self {
        Self {
            protocol: claim.protocol,
            address: claim.address.ip(),
            first_port: claim.first_port,
            count: claim.count,
        }
    }
}

/// Ports that a client wants or has for some remote ends, or a whole protocol, alone or as one of a group.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use usnet::{Options, RuleClaim, Session};
/// let mut session = Session::attach(Options::named("web"))?;
/// let network = "192.0.2.0".parse()?;
/// session.claim_rule(RuleClaim { remote: Some((network, 24)), ..RuleClaim::port(6, 80) })?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleClaim {
    /// IP protocol: one with ports, or, if policy permits, one without.
    pub protocol: u8,
    /// Local address; `None` means every address of the session.
    pub address: Option<IpAddr>,
    /// First port; in a wish, 0 asks for any free block. 0 where the protocol has none.
    pub first_port: u16,
    /// Number of ports, at least 1; 0 where the protocol has none.
    pub count: u16,
    /// Where frames come from: an address and the length of its prefix; `None` means anywhere.
    pub remote: Option<(IpAddr, u8)>,
    /// The port that frames come from; 0 means any.
    pub remote_port: u16,
    /// Of two claims that fit a frame, the one with more is asked first; among equals, the one that says more of the
    /// remote end.
    pub priority: u8,
    /// Whether other sessions of the same user may have the same, in the same words: then each gets a part of the
    /// flows, and one that ends leaves its part to the others.
    pub spread: bool,
}

impl RuleClaim {
    /// One port on every address of the session, from anywhere, alone.
    #[must_use]
    pub const fn port(protocol: u8, port: u16) -> Self {
        Self {
            protocol,
            address: None,
            first_port: port,
            count: 1,
            remote: None,
            remote_port: 0,
            priority: 0,
            spread: false,
        }
    }

    /// All of a protocol that has no ports.
    #[must_use]
    pub const fn protocol(protocol: u8) -> Self {
        Self { count: 0, ..Self::port(protocol, 0) }
    }

    fn to_message(self) -> control::Rule {
        let full = |ip: IpAddr| Address::new(ip, if ip.is_ipv4() { 32 } else { 128 });
        control::Rule {
            address: self.address.map(full).unwrap_or_default(),
            remote: self.remote.map(|(ip, bits)| Address::new(ip, bits)).unwrap_or_default(),
            first_port: self.first_port,
            count: self.count,
            remote_port: self.remote_port,
            protocol: self.protocol,
            priority: self.priority,
            flags: if self.spread { control::rule_flags::SPREAD } else { 0 },
            reserved: 0,
        }
    }

    fn from_message(rule: &control::Rule) -> Self {
        Self {
            protocol: rule.protocol,
            address: rule.address.ip(),
            first_port: rule.first_port,
            count: rule.count,
            remote: rule.remote.ip().map(|ip| (ip, rule.remote.prefix)),
            remote_port: rule.remote_port,
            priority: rule.priority,
            spread: rule.flags & control::rule_flags::SPREAD != 0,
        }
    }
}

/// All addresses with a prefix, that a client wants or has for itself alone, with all ports.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use usnet::{Options, PrefixClaim, Session};
/// let mut session = Session::attach(Options::named("hosts"))?;
/// session.claim_prefix(PrefixClaim::all("10.1.0.0".parse()?, 24))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixClaim {
    /// One of the addresses.
    pub address: IpAddr,
    /// Bits that all of them begin with, at least 1.
    pub bits: u8,
    /// Of this IP protocol alone, or of all.
    pub protocol: Option<u8>,
}

impl PrefixClaim {
    /// Of all protocols.
    #[must_use]
    pub const fn all(address: IpAddr, bits: u8) -> Self {
        Self { address, bits, protocol: None }
    }

    fn to_message(self) -> control::Rule {
        let address = Address::new(self.address, self.bits);
        control::Rule { address, protocol: self.protocol.unwrap_or(0), ..control::Rule::default() }
    }
}

#[derive(Debug)]
struct Connection {
    channel: Channel,
    /// Number of the last request.
    request: u32,
    /// Whether the daemon knows claims by rule.
    knows_rules: bool,
}

/// A handle to the control connection. Clones share it and take turns.
#[derive(Clone, Debug)]
pub struct Control {
    connection: Arc<Mutex<Connection>>,
}

/// What a message is called in an error.
pub(crate) fn message_name(message: &Message) -> &'static str {
    match message {
        Message::Attached(_) => "attached",
        Message::Claimed(_) => "claimed",
        Message::RuleClaimed(_) => "rule claimed",
        Message::Text(_) => "text",
        Message::Detached => "detached",
        Message::Refused(_) => "refused",
        _ => "a request",
    }
}

impl Control {
    pub(crate) fn new(channel: Channel, request: u32, knows_rules: bool) -> Self {
        Self { connection: Arc::new(Mutex::new(Connection { channel, request, knows_rules })) }
    }

    /// A second descriptor of the connection, to see its hang-up.
    pub(crate) fn watch(&self) -> std::io::Result<OwnedFd> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.channel.as_fd().try_clone_to_owned()
    }

    fn ask(&self, message: &Message) -> Result<Message, RequestError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.request = connection.request.wrapping_add(1);
        let request = connection.request;
        let ended = |error| match error {
            ChannelError::Closed => RequestError::Ended,
            other => RequestError::Channel(other),
        };
        connection.channel.send(request, message, &[], SendFlags::empty()).map_err(ended)?;
        loop {
            let (number, answer) = connection.channel.receive(RecvFlags::empty()).map_err(ended)?;
            match answer {
                // The answer to a request whose turn timed out is nobody's any more.
                _ if number != request => {
                    if matches!(answer, Message::Detached) {
                        return Err(RequestError::Ended);
                    }
                }
                Message::Refused(refused) => {
                    return Err(RequestError::Refused {
                        code: RefusalCode::from_u32(refused.code),
                        message: name_from(&refused.message),
                    });
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Asks for ports; they are granted all or not at all. Returns what was granted.
    ///
    /// # Errors
    /// [`RequestError`]: in use, not permitted, a quota is used up, or the session has ended.
    pub fn claim(&self, wish: Claim) -> Result<Claim, RequestError> {
        match self.ask(&Message::Claim(wish.to_message()))? {
            Message::Claimed(claim) => Ok(Claim::from_message(&claim)),
            other => Err(RequestError::Unexpected { found: message_name(&other) }),
        }
    }

    /// Gives a claim back, exactly as it was granted.
    ///
    /// # Errors
    /// [`RequestError`]: there is no such claim, or the session has ended.
    pub fn release(&self, claim: Claim) -> Result<(), RequestError> {
        match self.ask(&Message::Release(claim.to_message()))? {
            Message::Claimed(_) => Ok(()),
            other => Err(RequestError::Unexpected { found: message_name(&other) }),
        }
    }

    /// Asks for ports for some remote ends, for a whole protocol, or for a place in a group. Returns what was granted.
    ///
    /// # Errors
    /// [`RequestError`]: policy, quota, or another client has it; [`RequestError::Unsupported`] by an older daemon.
    pub fn claim_rule(&self, wish: RuleClaim) -> Result<RuleClaim, RequestError> {
        self.ask_rule(&Message::ClaimRule(wish.to_message()))
    }

    /// Gives such a claim back, exactly as it was granted.
    ///
    /// # Errors
    /// [`RequestError`]: there is no such claim, or the session has ended.
    pub fn release_rule(&self, claim: RuleClaim) -> Result<(), RequestError> {
        self.ask_rule(&Message::ReleaseRule(claim.to_message())).map(drop)
    }

    /// Asks for all addresses with a prefix: the switch answers ARP and neighbour discovery for them, and all that is for them and
    /// for no longer prefix that somebody has comes here. It may send from them.
    ///
    /// # Errors
    /// [`RequestError`]: policy (`own_prefixes`), quota, or another client has it; [`RequestError::Unsupported`] by an older daemon.
    pub fn claim_prefix(&self, wish: PrefixClaim) -> Result<(), RequestError> {
        self.ask_rule(&Message::ClaimRule(wish.to_message())).map(drop)
    }

    /// Gives them back, in the words of the claim.
    ///
    /// # Errors
    /// [`RequestError`]: there is no such claim, or the session has ended.
    pub fn release_prefix(&self, claim: PrefixClaim) -> Result<(), RequestError> {
        self.ask_rule(&Message::ReleaseRule(claim.to_message())).map(drop)
    }

    fn ask_rule(&self, message: &Message) -> Result<RuleClaim, RequestError> {
        let knows = self.connection.lock().unwrap_or_else(PoisonError::into_inner).knows_rules;
        if !knows {
            return Err(RequestError::Unsupported { what: "claims by rule" });
        }
        match self.ask(message)? {
            Message::RuleClaimed(rule) => Ok(RuleClaim::from_message(&rule)),
            other => Err(RequestError::Unexpected { found: message_name(&other) }),
        }
    }

    /// Ends the session and waits until the daemon says that it has.
    ///
    /// # Errors
    /// [`RequestError`]; a session that had ended before is no error.
    pub fn detach(&self) -> Result<(), RequestError> {
        match self.ask(&Message::Detach) {
            Ok(Message::Detached) | Err(RequestError::Ended) => Ok(()),
            Ok(other) => Err(RequestError::Unexpected { found: message_name(&other) }),
            Err(error) => Err(error),
        }
    }
}
