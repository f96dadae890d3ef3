//! How an interface is served, for its status: found out when it is opened, told to the control thread.

use super::auto::Choice;
use super::rss::Rss;

/// How an interface is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// What serves it, if that was left to be chosen.
    pub choice: Option<Choice>,
    /// How flows come to its queues, where that is looked at.
    pub rss: Option<Rss>,
}
