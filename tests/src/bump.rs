//! A host that has the shared address behind a usnetd that has none.

use crate::lab::{INSIDE, INSIDE6, Lab, OUTSIDE, OUTSIDE6, set_up_host};
use std::os::fd::AsFd;
use usnet_switch::classify::Mac;
use usnet_switch::net::namespace::Namespace;
use usnet_switch::net::{NetError, Netlink};

/// Link address of the host behind, which clients share.
const MAC: Mac = Mac([2, 0, 0, 9, 0, 1]);

impl Lab {
    /// usnetd as a bump in the wire between two hosts; `more` is appended to its configuration.
    /// `None`, said aloud, where there are no namespaces.
    ///
    /// # Panics
    /// If the hosts cannot be set up although there are namespaces, or usnetd does not start.
    #[must_use]
    pub fn bump(more: &str) -> Option<Self> {
        let (inside, outside, behind) =
            (Self::namespace()?, Self::namespace()?, Self::namespace()?);
        let here = || -> Result<(), NetError> {
            let mut netlink = Netlink::open()?;
            netlink.add_veth("sv0", "cl0", Some(outside.as_fd()))?;
            netlink.add_veth("sv1", "hb0", Some(behind.as_fd()))?;
            netlink.set_up("sv0")?;
            netlink.set_up("sv1")
        };
        inside.run(here).expect("a namespace").expect("the host in the middle");
        let there = || set_up_host("cl0", [OUTSIDE, OUTSIDE6]);
        outside.run(there).expect("a namespace").expect("the outside host");
        set_up_behind(&behind);
        let mut lab = Self::of(inside, outside, Some(behind));
        lab.start_usnetd(&format!(
            "host = {{ interface = \"sv1\" }}\nmac = \"{MAC}\"\n\
             addresses = [\"{INSIDE}/24\", \"{INSIDE6}/64\"]\n{more}"
        ));
        Some(lab)
    }

    /// Takes the cable between usnetd and the host behind away, with both its ends.
    ///
    /// # Panics
    /// If there is none.
    pub fn cut_cable(&self) {
        let cut = || Netlink::open()?.delete_link("sv1");
        self.inside.run(cut).expect("a namespace").expect("a cable");
    }

    /// Puts another one in its place.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn lay_cable(&self) {
        let behind = self.behind.as_ref().expect("a host behind");
        let lay = || -> Result<(), NetError> {
            let mut netlink = Netlink::open()?;
            netlink.add_veth("sv1", "hb0", Some(behind.as_fd()))?;
            netlink.set_up("sv1")
        };
        self.inside.run(lay).expect("a namespace").expect("a cable");
        set_up_behind(behind);
    }
}

fn set_up_behind(behind: &Namespace) {
    let set_up = || {
        Netlink::open()?.set_mac("hb0", MAC)?;
        set_up_host("hb0", [INSIDE, INSIDE6])
    };
    behind.run(set_up).expect("a namespace").expect("the host behind");
}
