//! Which driver an interface has (SIOCETHTOOL, linux/ethtool.h).

use super::error::{KernelNote, NetError};
use super::link::name_bytes;
use super::sys::{self, EthtoolDriver};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;

const GET: u32 = 3;

/// Name of the driver of an interface of the calling thread's network namespace: `e1000`, `veth` ...
///
/// # Errors
/// There is no such interface, or its driver has no name.
pub fn driver(name: &str) -> Result<String, NetError> {
    let request_name = name_bytes(name)?;
    let refused = |source: io::Error| NetError::Refused {
        operation: "ask for the driver of",
        object: name.into(),
        note: KernelNote::default(),
        source,
    };
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| refused(error.into()))?;
    let mut request = EthtoolDriver { command: GET, ..EthtoolDriver::default() };
    sys::ethtool(&socket, request_name, &mut request).map_err(refused)?;
    let text = request.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}
