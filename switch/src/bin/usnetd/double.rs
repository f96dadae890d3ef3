//! netmap's kernel side played by this process, for a card between two interfaces.
//!
//! ```text
//!   kernel -- CARD --veth-- DRIVER [ host rings | card's rings ] CABLE -- the outside
//! ```

use std::io;
use std::sync::Arc;
use usnet_switch::net::Netlink;
use usnet_switch::port::af_packet::bare_socket;
use usnet_switch::port::netmap::Kernel;
use usnet_switch::port::netmap::double::{Double, FdMedium, NicSpec};

/// The double of `CARD=DRIVER,CABLE`.
///
/// # Errors
/// Not that form, or no such interfaces.
pub(crate) fn kernel(text: &str) -> io::Result<Arc<dyn Kernel>> {
    let parts = text.split_once('=').and_then(|(card, rest)| Some((card, rest.split_once(',')?)));
    let Some((card, (driver, cable))) = parts else {
        return Err(io::Error::other(format!("`{text}` is not CARD=DRIVER,CABLE")));
    };
    let mut netlink = Netlink::open().map_err(io::Error::other)?;
    let mut medium = |name: &str| {
        let link = netlink.link(name).map_err(io::Error::other)?;
        FdMedium::new(bare_socket(link.index)?).map(Box::new)
    };
    let spec = NicSpec::new(card, medium(cable)?).with_host(medium(driver)?);
    let double = Double::new()?;
    double.add_nic(spec)?;
    Ok(Arc::new(double))
}
