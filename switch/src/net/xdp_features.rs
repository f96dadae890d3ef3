//! What a driver can do with XDP sockets (linux/netdev.h, over generic netlink; Linux 6.3, in part 6.7).

use super::error::NetError;
use super::generic::{Family, attributes};
use super::netlink::{Failure, NLM_F_ACK};

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
        let Some(mut family) = Family::open("netdev").map_err(fail)? else { return Ok(None) };
        let ask = family.message(NETDEV_CMD_DEV_GET).u32(NETDEV_A_DEV_IFINDEX, index);
        let mut found = None;
        family
            .socket
            .query(ask, NLM_F_ACK, |_, body| {
                let Some(attributes) = attributes(body) else { return };
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
