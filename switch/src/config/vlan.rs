//! Interfaces that are a VLAN of another one.
//!
//! ```toml
//! [[interface]]
//! name = "eth0.42"
//! vlan = { of = "eth0", id = 42 }
//! ```

use super::Interface;
use super::check::{Problems, quoted};
use super::raw::{Backend, HostEndpoint, RawHost, RawVlan};

/// Which VLAN of which interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The interface whose frames are tagged; it is no VLAN itself.
    pub of: String,
    /// The identifier, 1..=4094. No other interface has the same of that interface.
    pub id: u16,
}

/// Largest identifier; the one above is reserved (IEEE 802.1Q, table 9-2).
const LAST: u16 = 4094;

/// Checks what an interface says of itself, and gives one that is a VLAN its port.
pub(super) fn check(
    key: &str,
    vlan: Option<&RawVlan>,
    port: &mut Option<Backend>,
    host: &RawHost,
    problems: &mut Problems,
) -> Option<Vlan> {
    let Some(RawVlan { of, id }) = vlan else {
        if *port == Some(Backend::Vlan) {
            let allowed = "needs vlan = { of = \"NAME\", id = NUMBER } beside it";
            problems.add(format_args!("{key}.port"), quoted("vlan"), allowed);
        }
        return None;
    };
    let port = port.get_or_insert(Backend::Vlan);
    if *port != Backend::Vlan {
        let allowed = "must not be given: a VLAN has the port of the interface that it is of";
        problems.add(format_args!("{key}.port"), quoted(port.name()), allowed);
    }
    if !(1..=LAST).contains(id) {
        let allowed = "must be from 1 to 4094; a frame of identifier 0 has a priority alone, and is read as \
                       untagged";
        problems.add(format_args!("{key}.vlan.id"), id, allowed);
    }
    if *host == RawHost::Kernel(HostEndpoint::Veth) {
        let allowed =
            "must be \"none\" or \"tap\": the kernel's part of a VLAN is a TAP device of its name";
        problems.add(format_args!("{key}.host"), quoted("veth"), allowed);
    }
    Some(Vlan { of: of.clone(), id: *id })
}

/// Compares the VLANs with what they are of, and puts them behind it.
pub(super) fn check_all(interfaces: &mut [Interface], problems: &mut Problems) {
    for (index, interface) in interfaces.iter().enumerate() {
        let Some(vlan) = &interface.vlan else { continue };
        let parent = interfaces.iter().find(|i| i.name == vlan.of);
        let allowed = match parent {
            _ if vlan.of == interface.name => "must be the name of another [[interface]]",
            None => "must be the name of an [[interface]]",
            Some(parent) if parent.vlan.is_some() => {
                "is a VLAN itself, and a frame gets one tag; name the interface that both are of"
            }
            Some(parent) if parent.behind.is_some() => {
                "is a bump in the wire, which lets tagged frames through as they are; give it another host"
            }
            Some(_) => {
                let (before, _) = interfaces.split_at(index);
                if before.iter().any(|other| other.vlan.as_ref() == Some(vlan)) {
                    let allowed = "each VLAN of an interface may be named once";
                    problems.add(format_args!("interface[{index}].vlan.id"), vlan.id, allowed);
                }
                continue;
            }
        };
        problems.add(format_args!("interface[{index}].vlan.of"), quoted(&vlan.of), allowed);
    }
    // Whoever opens them in order finds what they are of open.
    interfaces.sort_by_key(|interface| interface.vlan.is_some());
}
