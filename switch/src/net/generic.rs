//! Generic netlink: families of messages, which have a name for ever and a number until the next boot.
//!
//! ```text
//!   nlmsghdr: number of the family | genlmsghdr: command, version | attributes
//! ```

use super::netlink::{Attributes, Failure, Message, NLM_F_ACK, Socket, split_body};
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

/// A socket to speak with one family.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) socket: Socket,
    number: u16,
}

impl Family {
    /// Finds a family by its name; `None` in a kernel that does not have it.
    pub(super) fn open(name: &str) -> Result<Option<Self>, Failure> {
        let mut socket = Socket::open(Some(rustix::net::netlink::GENERIC))?;
        let ask = message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY).text(CTRL_ATTR_FAMILY_NAME, name);
        let mut number = None;
        let asked = socket.query(ask, NLM_F_ACK, |_, body| {
            let id =
                attributes(body).and_then(|all| all.find(CTRL_ATTR_FAMILY_ID)?.try_into().ok());
            number = number.or(id.map(u16::from_ne_bytes));
        });
        match asked {
            Ok(()) => Ok(number.map(|number| Self { socket, number })),
            Err(Failure::Refused(error, _)) if error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// A family with this number, for tests: nobody answers.
    #[cfg(test)]
    pub(super) fn of_number(number: u16) -> Self {
        Self { socket: Socket::open(Some(rustix::net::netlink::GENERIC)).unwrap(), number }
    }

    /// A request of this family without attributes yet.
    pub(super) fn message(&self, command: u8) -> Message {
        message(self.number, command)
    }
}

fn message(family: u16, command: u8) -> Message {
    Message::new(family, 0, &GenericHeader { command, version: 1, reserved: 0 })
}

/// The attributes of an answer.
pub(super) fn attributes(body: &[u8]) -> Option<Attributes<'_>> {
    split_body::<GenericHeader>(body).map(|(_, attributes)| attributes)
}
