//! One attachment to the daemon: what was granted, and the two ways on from there.
//!
//! ```text
//!   Session::attach ---> Session --+--> control()   claims, by any thread
//!                                  +--> frames()    the rings, by one thread
//!                                  +--> into_parts  for those who put the two in different places
//! ```

use crate::control::{Claim, Control, PrefixClaim, RuleClaim, message_name};
use crate::error::{AttachError, RequestError};
use crate::raw::Frames;
use rustix::net::SendFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;
use usnet_shmring::control::{
    Address, Attach, Attached, Channel, ChannelError, Message, Mode, RefusalCode, features,
    name_from, name_into,
};
use usnet_shmring::layout::VERSION;
use usnet_shmring::view::View;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/usnetd/control.sock";
/// Names another socket than [`DEFAULT_SOCKET`].
pub const SOCKET_VARIABLE: &str = "USNETD_SOCKET";

/// How to attach. A zero leaves the choice to the daemon, which may also grant less than is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Interface to attach to; empty means the only one. At most 15 bytes.
    pub interface: String,
    /// What status output calls this client; empty means the process name. At most 32 bytes.
    pub name: String,
    /// Cells of each ring: a power of two, 2..=32,768.
    pub ring_capacity: u32,
    /// Slots for frames to this client, in mode isolated.
    pub receive_slots: u32,
    /// Slots for frames from this client, at most `ring_capacity`.
    pub transmit_slots: u32,
    /// How long to wait for each answer of the daemon.
    pub patience: Duration,
    /// Ask for frames that are [unfinished](crate::raw::Offload), in both directions. Whoever reads and writes frames
    /// itself must know what to do with them then.
    pub unfinished: bool,
}

impl Default for Options {
    /// Everything as the daemon likes it, at `$USNETD_SOCKET` or [`DEFAULT_SOCKET`].
    fn default() -> Self {
        let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        Self {
            socket: socket.unwrap_or_else(|| DEFAULT_SOCKET.into()).into(),
            interface: String::new(),
            name: String::new(),
            ring_capacity: 0,
            receive_slots: 0,
            transmit_slots: 0,
            patience: Duration::from_secs(10),
            unfinished: false,
        }
    }
}

impl Options {
    /// The default with a name for status output.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixed<A> {
    /// The address.
    pub address: A,
    /// Its prefix length.
    pub prefix: u8,
}

/// What the daemon granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Number of the session, as in status output.
    pub session: u32,
    /// How its memory is shared.
    pub mode: Mode,
    /// The interface's MAC, which this client sends from.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: usize,
    /// IPv4 address of the session.
    pub ipv4: Option<Prefixed<Ipv4Addr>>,
    /// IPv6 address of the session.
    pub ipv6: Option<Prefixed<Ipv6Addr>>,
    /// IPv4 router.
    pub gateway4: Option<Ipv4Addr>,
    /// IPv6 router.
    pub gateway6: Option<Ipv6Addr>,
    /// Cells of each ring.
    pub ring_capacity: u32,
    /// Bytes of a slot: the longest frame.
    pub slot_size: u32,
    /// Whether frames may be unfinished, in both directions. The daemon grants it where that saves work.
    pub unfinished: bool,
}

impl Grant {
    /// Addresses of the session.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.ipv4.map(|p| IpAddr::V4(p.address));
        let v6 = self.ipv6.map(|p| IpAddr::V6(p.address));
        v4.into_iter().chain(v6)
    }

    fn from_message(attached: &Attached) -> Self {
        let v4 = |a: &Address| match a.ip() {
            Some(IpAddr::V4(address)) => Some(Prefixed { address, prefix: a.prefix.min(32) }),
            _ => None,
        };
        let v6 = |a: &Address| match a.ip() {
            Some(IpAddr::V6(address)) => Some(Prefixed { address, prefix: a.prefix.min(128) }),
            _ => None,
        };
        Self {
            session: attached.session,
            // An unknown mode can only be one of a newer daemon, which VERSION rules out.
            mode: Mode::from_u32(attached.mode).unwrap_or(Mode::Isolated),
            mac: attached.mac,
            mtu: usize::try_from(attached.mtu).unwrap_or(usize::MAX),
            ipv4: v4(&attached.ipv4),
            ipv6: v6(&attached.ipv6),
            gateway4: v4(&attached.gateway4).map(|g| g.address),
            gateway6: v6(&attached.gateway6).map(|g| g.address),
            ring_capacity: attached.ring_capacity,
            slot_size: attached.slot_size,
            unfinished: attached.features & features::UNFINISHED != 0,
        }
    }
}

/// An attached client. Dropping it ends the session: the daemon takes ports and slots back.
#[derive(Debug)]
pub struct Session {
    options: Options,
    grant: Grant,
    control: Control,
    frames: Frames,
    claims: Vec<Claim>,
    rules: Vec<RuleClaim>,
    prefixes: Vec<PrefixClaim>,
}

impl Session {
    /// Attaches to the daemon.
    ///
    /// # Errors
    /// [`AttachError`], which names the socket, the cause and the way out.
    pub fn attach(options: Options) -> Result<Self, AttachError> {
        let path = &options.socket;
        let channel = Channel::connect(path)
            .map_err(|source| AttachError::Connect { path: path.clone(), source })?;
        Self::attach_over(channel, options)
    }

    /// The same over a connection that is there already.
    ///
    /// # Errors
    /// [`AttachError`]
    pub fn attach_over(channel: Channel, options: Options) -> Result<Self, AttachError> {
        let path = options.socket.clone();
        let failed = |source| AttachError::Channel { path: path.clone(), source };
        let system = |what| {
            move |errno: rustix::io::Errno| ChannelError::System { what, source: errno.into() }
        };
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&channel, direction, Some(options.patience))
                .map_err(system("set a time limit"))
                .map_err(failed)?;
        }
        let wish = Attach {
            version: VERSION,
            ring_capacity: options.ring_capacity,
            receive_slots: options.receive_slots,
            transmit_slots: options.transmit_slots,
            interface: name_into(&options.interface),
            name: name_into(&options.name),
            features: features::RULES | if options.unfinished { features::UNFINISHED } else { 0 },
            reserved: 0,
        };
        channel.send(1, &Message::Attach(wish), &[], SendFlags::empty()).map_err(failed)?;
        let mut descriptors = Vec::new();
        let (_, answer) = channel.receive_with_descriptors(&mut descriptors).map_err(failed)?;
        let attached = match answer {
            Message::Attached(attached) if attached.version == VERSION => attached,
            Message::Attached(Attached { version: theirs, .. }) => {
                return Err(AttachError::Version { path, ours: VERSION, theirs });
            }
            Message::Refused(refused) => {
                return Err(AttachError::Refused {
                    path,
                    code: RefusalCode::from_u32(refused.code),
                    message: name_from(&refused.message),
                });
            }
            other => {
                return Err(AttachError::Unexpected { path, found: message_name(&other) });
            }
        };
        let (views, signals) = View::map(&attached, descriptors)
            .map_err(|source| AttachError::Memory { path: path.clone(), source })?;
        let control = Control::new(channel, 1, attached.features & features::RULES != 0);
        let watch = control.watch().map_err(|source| {
            failed(ChannelError::System { what: "duplicate the connection", source })
        })?;
        if !options.unfinished && attached.features & !features::RULES != 0 {
            return Err(AttachError::Unexpected { path, found: "features that nobody asked for" });
        }
        let frames = Frames::new(views, attached.session, signals, watch)
            .ok_or(AttachError::Unexpected { path, found: "a session without queue pairs" })?;
        let grant = Grant::from_message(&attached);
        let (claims, rules, prefixes) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { options, grant, control, frames, claims, rules, prefixes })
    }

    /// What the daemon granted.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Number of the session, as in status output.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.grant.session
    }

    /// The interface's MAC.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.grant.mac
    }

    /// Addresses of the session.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.grant.addresses()
    }

    /// Largest IP packet, in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.grant.mtu
    }

    /// How its memory is shared.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.grant.mode
    }

    /// Asks for ports. They stay claimed until they are released or the session ends.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn claim(&mut self, wish: Claim) -> Result<Claim, RequestError> {
        let granted = self.control.claim(wish)?;
        self.claims.push(granted);
        Ok(granted)
    }

    /// Gives a claim back, exactly as it was granted.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn release(&mut self, claim: Claim) -> Result<(), RequestError> {
        self.claims.retain(|held| *held != claim);
        self.control.release(claim)
    }

    /// As [`claim`](Self::claim), for some remote ends, for a whole protocol, or for a place in a group.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn claim_rule(&mut self, wish: RuleClaim) -> Result<RuleClaim, RequestError> {
        let granted = self.control.claim_rule(wish)?;
        self.rules.push(granted);
        Ok(granted)
    }

    /// Gives such a claim back, exactly as it was granted.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn release_rule(&mut self, claim: RuleClaim) -> Result<(), RequestError> {
        self.rules.retain(|held| *held != claim);
        self.control.release_rule(claim)
    }

    /// Asks for all addresses with a prefix, as [`Control::claim_prefix`].
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn claim_prefix(&mut self, wish: PrefixClaim) -> Result<(), RequestError> {
        self.control.claim_prefix(wish)?;
        self.prefixes.push(wish);
        Ok(())
    }

    /// Gives them back, in the words of the claim.
    ///
    /// # Errors
    /// [`RequestError`]
    pub fn release_prefix(&mut self, claim: PrefixClaim) -> Result<(), RequestError> {
        self.prefixes.retain(|held| *held != claim);
        self.control.release_prefix(claim)
    }

    /// Attaches again, after the daemon was restarted or has ended the session, and claims again
    /// what was claimed. Frames under way are lost.
    ///
    /// # Errors
    /// [`AttachError`]; the old session stays in place, dead or alive, unless it is
    /// [`AttachError::Reclaim`].
    pub fn reattach(&mut self) -> Result<(), AttachError> {
        let (claims, rules) = (self.claims.clone(), self.rules.clone());
        let prefixes = self.prefixes.clone();
        *self = Self::attach(self.options.clone())?;
        for claim in claims {
            self.claim(claim).map_err(|source| AttachError::Reclaim { source })?;
        }
        for claim in rules {
            self.claim_rule(claim).map_err(|source| AttachError::Reclaim { source })?;
        }
        for claim in prefixes {
            self.claim_prefix(claim).map_err(|source| AttachError::Reclaim { source })?;
        }
        Ok(())
    }

    /// Ends the session and waits until the daemon has taken everything back.
    ///
    /// # Errors
    /// [`RequestError`]; the session is over all the same.
    pub fn detach(self) -> Result<(), RequestError> {
        self.control.detach()
    }

    /// The control connection, for other threads.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The rings.
    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// Takes the session apart. It ends when both parts, and all clones of the control, are gone.
    #[must_use]
    pub fn into_parts(self) -> (Grant, Control, Frames) {
        (self.grant, self.control, self.frames)
    }
}
