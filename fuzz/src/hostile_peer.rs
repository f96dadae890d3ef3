//! Sessions: any bytes are what a client stores where it can, between turns of a daemon half that
//! also serves an honest neighbour.

use usnet_shmring::model::hostile;

/// Runs the stores and turns; see [`hostile::run_bytes`].
///
/// # Panics
///
/// If the client gets further than a fault: slots are lost or made, the neighbour is not served, a
/// frame leaves with a head that was not checked.
pub fn check(data: &[u8]) {
    hostile::run_bytes(data);
}
