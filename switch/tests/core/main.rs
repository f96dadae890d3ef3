//! The switch as a whole: what becomes of every kind of frame, whoever sends it and whatever its
//! clients do.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "frames are built from small numbers"
)]

#[path = "../support/mod.rs"]
mod support;

mod any_frame;
mod bump;
mod conservation;
mod control_frames;
mod dhcp;
mod eapol;
mod fairness;
mod flow_table;
mod groups;
mod hostile;
mod lookup;
mod many;
mod modes;
mod pieces;
mod pieces_model;
mod places;
mod prefixes;
mod remembered;
mod replaced;
mod rules;
mod sleep;
mod spoofing;
mod stages;
mod unfinished;
mod unmatched;
mod vlan;
