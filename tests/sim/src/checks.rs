//! Invariants that hold at every step of every world. A broken one is an entry of `World::problems`, which fails the
//! world.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::guest::{Label, MARK};
use crate::packet;

/// Nodes that a frame may pass before it counts as a loop. The longest legitimate way between two data centres is
/// rVM, cloud, gateway, cloud, gateway, cloud, rVM, and the same back for an answer made from the same frame.
pub const HOPS_MAX: u16 = 18;

/// Frames on the wire at one moment, in the whole world, before it counts as a storm.
pub const FLIGHT_MAX: usize = 20_000;

/// Networks whose payload may be seen on another network: with a floating IP or a route, only in packets to that
/// address.
#[derive(Clone, Debug, Default)]
pub struct Crossings(BTreeSet<(Label, Label, Option<IpAddr>)>);

impl Crossings {
    /// Allows payload made on `from` to reach a machine on `to`, in packets to `dst` (or to any address).
    pub fn allow(&mut self, from: Label, to: Label, dst: Option<IpAddr>) {
        self.0.insert((from, to, dst));
    }

    /// Fails if a frame that arrived on `to` carries payload made on a network that `to` must not receive.
    ///
    /// # Errors
    /// Names the network that the payload comes from, and `to`.
    pub fn check(&self, to: Label, frame: &[u8]) -> Result<(), String> {
        let Some(from) = label_of(frame) else { return Ok(()) };
        let dst = packet::parse(frame).and_then(|p| p.ip).map(|ip| ip.dst);
        let allowed = from == to || self.0.contains(&(from, to, None)) || self.0.contains(&(from, to, dst));
        if allowed {
            Ok(())
        } else {
            Err(format!(
                "isolation: payload made on network {} was heard on network {} (to {dst:?})",
                from.0, to.0
            ))
        }
    }
}

/// The label of the first complete mark in the frame.
#[must_use]
pub fn label_of(frame: &[u8]) -> Option<Label> {
    let mut at = 0;
    while let Some(i) = frame[at..].iter().position(|&b| b == MARK[0]) {
        at += i;
        if frame.len() < at + 8 {
            return None;
        }
        if frame[at..at + 4] == MARK {
            return Some(Label(u32::from_be_bytes(frame[at + 4..at + 8].try_into().expect("four bytes"))));
        }
        at += 1;
    }
    None
}

/// Checks every checksum of an underlay frame and of the frame in its tunnel.
///
/// # Errors
/// Says which one is wrong.
pub fn underlay_checksums(frame: &[u8], tunnel_port: u16) -> Result<(), String> {
    packet::checksums(frame)?;
    match packet::vxlan_inner(frame, tunnel_port) {
        Some((_, at)) => packet::checksums(&frame[at..]),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::content;

    #[test]
    fn marks_are_found_and_judged() {
        let payload: Vec<u8> = (5..60).map(|p| content(Label(100), p)).collect();
        assert_eq!(label_of(&payload), Some(Label(100)));
        assert_eq!(label_of(b"IVSIVSM"), None);
        let mut c = Crossings::default();
        assert!(c.check(Label(100), &payload).is_ok());
        assert!(c.check(Label(200), &payload).is_err());
        c.allow(Label(100), Label(200), None);
        assert!(c.check(Label(200), &payload).is_ok());
        assert!(c.check(Label(201), &payload).is_err());
    }
}
