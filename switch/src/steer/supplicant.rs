//! Which client speaks EAPOL on an interface: one at a time, or none, and then it is the host's.
//!
//! ```text
//!   a client's first frame --take--> held, until its session ends     all workers share the one word
//! ```

use crate::verdict::{Receiver, ReceiverCode};
use core::sync::atomic::{AtomicU16, Ordering};
use std::sync::Arc;
use usnet_shmring::ledger::SessionId;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Supplicant(Arc<AtomicU16>);

impl Supplicant {
    /// Who it is.
    pub(crate) fn holder(&self) -> Option<Receiver> {
        // Acquire pairs with `take`: what is answered was sent after that.
        ReceiverCode::from_bits(self.0.load(Ordering::Acquire)).receiver()
    }

    /// A client speaks, before its frame leaves. Returns whether it is the one.
    pub(crate) fn take(&self, session: SessionId) -> bool {
        let own = ReceiverCode::of(Some(Receiver::Client(session))).bits();
        let free = ReceiverCode::NONE.bits();
        match self.0.compare_exchange(free, own, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(holder) => holder == own,
        }
    }

    /// A client is gone.
    pub(super) fn forget(&self, session: SessionId) {
        let own = ReceiverCode::of(Some(Receiver::Client(session))).bits();
        let free = ReceiverCode::NONE.bits();
        let _ = self.0.compare_exchange(own, free, Ordering::AcqRel, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_is_the_supplicant_for_all_workers() {
        let one = Supplicant::default();
        let two = one.clone();
        let [a, b] = [SessionId(0), SessionId(7)];
        assert!(one.holder().is_none() && one.take(a) && two.take(a) && !two.take(b));
        two.forget(b);
        assert_eq!(two.holder(), Some(Receiver::Client(a)));
        one.forget(a);
        assert!(two.take(b));
        // The session ends with each worker; the later ones find another's.
        two.forget(a);
        assert_eq!(one.holder(), Some(Receiver::Client(b)));
    }
}
