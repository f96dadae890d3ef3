//! What is held by no session.

use super::Registry;

impl Registry {
    /// An interface is gone: nothing is held there any more.
    pub fn close(&mut self, interface: usize) {
        self.held.retain(|((place, ..), _), _| *place != interface);
        self.own.retain(|(place, _), _| *place != interface);
    }
}
