//! Shared regions, rings, slots and control messages.
