//! Why a wish was not granted, in words for the client.

use super::{Holder, Registry, Wish};
use crate::classify::Protocol;
use crate::config::protocol_name;
use crate::steer::{Prefix, PrefixRule, Scope};
use core::fmt;
use std::net::IpAddr;
use thiserror::Error;
use usnet_shmring::control::RefusalCode;

/// Something that an account has a limited number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Sessions at a time.
    Sessions,
    /// Claimed ports.
    Ports,
    /// Slots of own pools.
    Slots,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sessions => "sessions",
            Self::Ports => "ports",
            Self::Slots => "slots",
        })
    }
}

/// Who has something, with the name that a client has given itself, or the configuration has given it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// Who.
    pub holder: Holder,
    /// A client's name.
    pub name: Option<String>,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.holder, &self.name) {
            (Holder::Reserved(_), Some(name)) => {
                write!(f, "kept for client {name} by [[client]] of the configuration")
            }
            (holder, Some(name)) => write!(f, "held by {holder} ({name})"),
            (holder, None) => write!(f, "held by {holder}"),
        }
    }
}

impl Registry {
    /// Who that is.
    pub(super) fn whose(&self, holder: Holder) -> Whose {
        let name = match holder {
            Holder::Host | Holder::Flows => None,
            Holder::Reserved(number) => self.reserved_for(number),
            Holder::Session(id) => self.name_of(id),
        };
        Whose { holder, name: name.map(str::to_owned) }
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Somebody else, or the session itself, has one of the ports.
    #[error("port {port} of {} at {address} is {holder}", protocol_name(*protocol))]
    Held {
        /// Where.
        address: IpAddr,
        /// Of which protocol.
        protocol: Protocol,
        /// The first port in question.
        port: u16,
        /// By whom.
        holder: Whose,
    },
    /// Somebody has one of the ports for the same remote end, or one that overlaps.
    #[error("{} at {address}{scope} is {holder}{why}", named(*protocol, *port))]
    HeldFor {
        /// Where.
        address: IpAddr,
        /// Of which protocol.
        protocol: Protocol,
        /// The first port in question.
        port: u16,
        /// For which remote ends.
        scope: Scope,
        /// By whom.
        holder: Whose,
        /// Why it cannot be shared, if it might have been.
        why: &'static str,
    },
    /// Somebody has the prefix, or the session itself.
    #[error("{rule} is {holder}")]
    PrefixHeld {
        /// What is held.
        rule: PrefixRule,
        /// By whom.
        holder: Whose,
    },
    /// Policy keeps this prefix from the user.
    #[error("policy does not allow the prefix {prefix}; it allows: {allowed}")]
    Prefix {
        /// What was asked for.
        prefix: Prefix,
        /// What might have been.
        allowed: String,
    },
    /// No such prefix is held.
    #[error("the session does not hold {rule}")]
    PrefixNotHeld {
        /// What was to be released.
        rule: PrefixRule,
    },
    /// The kernel's stack uses one of the ports.
    #[error(
        "port {port} of {} at {address} is used by the kernel's stack: {user}", protocol_name(*protocol)
    )]
    Kernel {
        /// Where.
        address: IpAddr,
        /// Of which protocol.
        protocol: Protocol,
        /// The first port in question.
        port: u16,
        /// By whom, as far as is known.
        user: String,
    },
    /// The ports cannot be kept from the kernel's stack: too few descriptors.
    #[error("{why}")]
    Descriptors {
        /// What it would take.
        why: String,
    },
    /// The ports cannot be kept from the kernel's stack for another reason.
    #[error("{why}")]
    NotKept {
        /// What the kernel said.
        why: String,
    },
    /// No block of that size is free among the ports allowed.
    #[error("no free block of {count} ports of {} is left", protocol_name(*protocol))]
    NoBlock {
        /// Of which protocol.
        protocol: Protocol,
        /// Size asked for.
        count: u16,
    },
    /// Policy keeps these ports from the user.
    #[error("policy does not allow {wish}; it allows: {allowed}")]
    Services {
        /// What was asked for.
        wish: Wish,
        /// What might have been.
        allowed: String,
    },
    /// The limit of the account is reached.
    #[error("the limit of {limit} {what} for this user is reached")]
    Quota {
        /// Of what.
        what: Resource,
        /// The limit.
        limit: u32,
    },
    /// Every address of the pool is taken, or the session has none.
    #[error("no address is left for this session")]
    NoAddress,
    /// The session does not have this address.
    #[error("{address} is no address of this session")]
    OtherAddress {
        /// The address asked for.
        address: IpAddr,
    },
    /// The protocol cannot be claimed by port.
    #[error("protocol {} has no ports to claim", protocol.0)]
    NoPorts {
        /// The protocol asked for.
        protocol: Protocol,
    },
    /// No such ports, or too many.
    #[error("{count} ports from {first}: a claim is of 1 to 4096 ports up to 65535")]
    Range {
        /// First port asked for.
        first: u16,
        /// Number of ports asked for.
        count: u16,
    },
    /// Not held in this form.
    #[error("the session holds no grant of {wish}")]
    NotHeld {
        /// What was to be released.
        wish: Wish,
    },
    /// There is no such session.
    #[error("there is no such session")]
    NoSession,
}

/// A port, or a protocol that has none.
fn named(protocol: Protocol, port: u16) -> String {
    let name = protocol_name(protocol);
    if protocol.has_ports() { format!("port {port} of {name}") } else { format!("protocol {name}") }
}

impl Refusal {
    /// The code that goes with the words.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Held { .. }
            | Self::HeldFor { .. }
            | Self::PrefixHeld { .. }
            | Self::Kernel { .. } => RefusalCode::InUse,
            Self::NoBlock { .. }
            | Self::Quota { .. }
            | Self::NoAddress
            | Self::Descriptors { .. } => RefusalCode::Exhausted,
            Self::NotKept { .. } => RefusalCode::Internal,
            Self::Services { .. } | Self::NoPorts { .. } | Self::Prefix { .. } => {
                RefusalCode::NotPermitted
            }
            Self::OtherAddress { .. }
            | Self::NotHeld { .. }
            | Self::PrefixNotHeld { .. }
            | Self::NoSession => RefusalCode::NotFound,
            Self::Range { .. } => RefusalCode::Protocol,
        }
    }
}
