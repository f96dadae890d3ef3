//! What a driver can do with XDP sockets (linux/netdev.h, over generic netlink; Linux 6.3, in part 6.7).

use super::error::NetError;
use super::netlink::{Failure, Message, NLM_F_ACK, Socket, split_body};
use bytemuck::{Pod, Zeroable};

/// `struct genlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct GenericHeader {
    command: u8,
    version: u8,
    reserved: u16,
}

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
/// `enum netdev_xdp_act`.
const NETDEV_XDP_ACT_BASIC: u64 = 1;
const NETDEV_XDP_ACT_XSK_ZEROCOPY: u64 = 8;

/// What a driver says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures {
    /// It runs programs before the kernel makes anything of a frame.
    pub programs: bool,
    /// It uses the slots of XDP sockets itself.
    pub zero_copy: bool,
    /// Of so many pieces may a frame be that it sends without a copy; 1 where it does not say.
    pub pieces: u32,
}

impl XdpFeatures {
    /// Of the interface with this index; `None` if the kernel is too old to say.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn of(index: u32) -> Result<Option<Self>, NetError> {
        let fail = |failure: Failure| failure.of("ask what XDP can do on", format!("link {index}"));
        let mut socket = Socket::open(Some(rustix::net::netlink::GENERIC)).map_err(fail)?;
        let Ok(family) = family(&mut socket, "netdev") else { return Ok(None) };
        let ask =
            Message::new(family, 0, &generic(NETDEV_CMD_DEV_GET)).u32(NETDEV_A_DEV_IFINDEX, index);
        let mut found = None;
        socket
            .query(ask, NLM_F_ACK, |_, body| {
                let Some((_, attributes)) = split_body::<GenericHeader>(body) else { return };
                let features = attributes.find(NETDEV_A_DEV_XDP_FEATURES);
                let features = features.and_then(|f| f.try_into().ok()).map(u64::from_ne_bytes);
                let has = |bit| features.is_some_and(|features| features & bit != 0);
                found = Some(Self {
                    programs: has(NETDEV_XDP_ACT_BASIC),
                    zero_copy: has(NETDEV_XDP_ACT_XSK_ZEROCOPY),
                    pieces: attributes.find_u32(NETDEV_A_DEV_XDP_ZC_MAX_SEGS).unwrap_or(1),
                });
            })
            .map_err(fail)?;
        Ok(found)
    }
}

const fn generic(command: u8) -> GenericHeader {
    GenericHeader { command, version: 1, reserved: 0 }
}

/// The number of a family.
fn family(socket: &mut Socket, name: &str) -> Result<u16, Failure> {
    let ask = Message::new(GENL_ID_CTRL, 0, &generic(CTRL_CMD_GETFAMILY))
        .text(CTRL_ATTR_FAMILY_NAME, name);
    let mut family = None;
    socket.query(ask, NLM_F_ACK, |_, body| {
        let attributes = split_body::<GenericHeader>(body).map(|(_, attributes)| attributes);
        let number = attributes.and_then(|all| all.find(CTRL_ATTR_FAMILY_ID)?.try_into().ok());
        family = family.or(number.map(u16::from_ne_bytes));
    })?;
    family.ok_or(Failure::Malformed)
}
