//! Clients of usnetd 0.1, as they were built: six JSON messages, and a socket with a frame a datagram.
//!
//! ```text
//!   program --JSON datagrams--> gateway ----words----> helper, one for each program: --> usnetd
//!           <--OK, ER, answers--        <-yes or no---   a session and the other end
//!           <==================== frames, a datagram each ====================>
//! ```
//!
//! - A program is what its datagrams' credentials say that it is, which the kernel writes, not what it
//!   says. Its helper runs as the program's own user and group, so usnetd judges it by the same policy as
//!   every client, and whatever the program does to its helper it does to itself.
//! - The gateway never waits for a program: an answer that finds no room is dropped and counted.
//! - A program has ended when its process has, whichever of its threads asked.
//! - What the predecessor's switch died of, or hung at, is answered `ER`: `docs/compat.md`.

pub mod gateway;
pub mod helper;
pub mod message;
