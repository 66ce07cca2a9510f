//! Packets of other rVMs that do not fit this one's configuration: tunnel packets from an unknown address, and claims
//! to a floating IP that belongs to another rVM here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use engine::command::{PeerId, Vni};
use engine::time::{Duration, Instant};
use engine::wire::mac::MacAddr;

use super::Agent;
use crate::model::Floating;
use crate::reconcile;

/// The most addresses that are remembered. The address with the fewest packets makes room, so a flood of forged
/// addresses does not hide one that keeps sending.
const STRANGERS_MAX: usize = 64;
/// How many packets an address must send within [`STRANGER`] before a warning.
const SIGHTINGS: u32 = 3;
const SPAN: Duration = Duration::from_secs(2);
/// How long the warning stays after the last packet. A switch that gets no answer asks once a minute.
const STRANGER: Duration = Duration::from_secs(150);

/// The most claims to floating IPs that are remembered.
const CLAIMS_MAX: usize = 256;
/// How long the warning stays after a claim. Gateways ask every twenty seconds; owners announce themselves only when
/// they begin.
const CLAIM: Duration = Duration::from_secs(90);

/// An unknown address that sends tunnel packets.
#[derive(Clone, Copy, Debug)]
struct Stranger {
    first: Instant,
    last: Instant,
    sightings: u32,
    vni: Vni,
}

/// Recent packets that do not fit the configuration.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    seen: BTreeMap<IpAddr, Stranger>,
    /// Claims by floating IP, network, whether the sender claims ownership, and the sender's MAC address.
    claims: BTreeMap<(IpAddr, Vni, bool, MacAddr), Claim>,
}

/// A claim by another rVM's switch.
#[derive(Clone, Copy, Debug)]
struct Claim {
    peer: PeerId,
    first: Instant,
    last: Instant,
}

/// A mismatch between rVMs, in words.
pub(super) struct Misfit {
    pub(super) object: String,
    pub(super) what: String,
    pub(super) how: String,
}

impl Agent {
    /// Notes a tunnel packet from an unknown address.
    pub(super) fn stranger(&mut self, from: IpAddr, vni: Vni) {
        let now = self.now;
        let seen = &mut self.strangers.seen;
        seen.retain(|_, s| now.since(s.last) < STRANGER);
        if seen.len() >= STRANGERS_MAX && !seen.contains_key(&from) {
            let least = seen.iter().min_by_key(|(_, s)| (s.sightings, s.last)).map(|(ip, _)| *ip);
            least.map(|ip| seen.remove(&ip));
        }
        let stranger = seen.entry(from).or_insert(Stranger { first: now, last: now, sightings: 0, vni });
        (stranger.last, stranger.sightings) = (now, stranger.sightings.saturating_add(1));
        // A probe names no network, so keep the network that another packet named.
        if vni != Vni::default() {
            stranger.vni = vni;
        }
    }

    /// Notes that the switch behind a peer claims to be the gateway of a floating IP, or the rVM of its owner.
    pub(super) fn floating_claimed(&mut self, vni: Vni, ip: IpAddr, peer: PeerId, mac: MacAddr, owner: bool) {
        let now = self.now;
        let claims = &mut self.strangers.claims;
        claims.retain(|_, claim| now.since(claim.last) < CLAIM);
        let key = (ip, vni, owner, mac);
        if claims.len() < CLAIMS_MAX || claims.contains_key(&key) {
            claims.entry(key).or_insert(Claim { peer, first: now, last: now }).last = now;
        }
    }

    /// The unknown addresses that keep sending.
    pub(super) fn stranger_misfits(&self) -> Vec<Misfit> {
        const NAMED: usize = 4;
        let now = self.now;
        let is_peer = |ip: &IpAddr| self.config.peer.iter().any(|p| p.address == *ip && p.via.is_none());
        let keeps_coming = |s: &Stranger| {
            s.sightings >= SIGHTINGS && s.last.since(s.first) >= SPAN && now.since(s.last) < STRANGER
        };
        let all = self.strangers.seen.iter().filter(|(ip, s)| keeps_coming(s) && !is_peer(ip));
        let mut all: Vec<(&IpAddr, &Stranger)> = all.collect();
        all.sort_by_key(|(_, s)| std::cmp::Reverse(s.sightings));
        let more = all.len().saturating_sub(NAMED);
        let words = |(ip, s): (&IpAddr, &Stranger)| {
            let behind = self.config.peer.iter().find(|p| p.address == *ip);
            let (what, how) = match behind.and_then(|p| Some((p, p.via.as_ref()?))) {
                Some((p, via)) => (
                    format!(
                        "peer \"{}\" sends to this rVM directly, but is reached through \"{via}\" here: all \
                         its packets are dropped",
                        p.name
                    ),
                    format!("`ivctl peer set {} --unset via`; or set `via` on it", p.name),
                ),
                None => {
                    let of = match s.vni == Vni::default() {
                        true => "probes: it has this rVM as a peer".to_owned(),
                        false => format!("VNI {}", s.vni),
                    };
                    (
                        format!(
                            "{ip} sends tunnel packets ({of}), but is not a peer here: all are dropped \
                             (unknown-peer)"
                        ),
                        format!("`ivctl peer add NAME --address {ip}`; or remove this rVM from its peers"),
                    )
                }
            };
            Misfit { object: ip.to_string(), what, how }
        };
        let mut misfits: Vec<Misfit> = all.into_iter().take(NAMED).map(words).collect();
        if more > 0 {
            misfits.push(Misfit {
                object: String::new(),
                what: format!("{more} more addresses that are not peers send tunnel packets"),
                how: "`ivctl drops --samples --port uplink` shows them".to_owned(),
            });
        }
        misfits
    }

    /// The floating IPs that rVMs, or parts of this configuration, disagree about.
    pub(super) fn floating_misfits(&self) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        // A provider maps a public address to one address of one rVM.
        let mut first: BTreeMap<IpAddr, &Floating> = BTreeMap::new();
        let mut told = BTreeSet::new();
        for f in &self.config.floating {
            let other = *first.entry(f.ip).or_insert(f);
            if other.gateway != f.gateway && told.insert(f.ip) {
                misfits.push(Misfit {
                    object: f.ip.to_string(),
                    what: format!(
                        "floating {}: it has two gateways here, \"{}\" and \"{}\"; a provider maps it to one rVM",
                        f.ip, other.gateway, f.gateway
                    ),
                    how: format!("set the right one: `ivctl fip set {} --gateway RVM`", self.which(f)),
                });
            }
        }
        misfits.extend(self.claim_misfits());
        misfits
    }

    /// Names a mapping to `ivctl fip set`: by its address, and by what tells it from others of the same address.
    fn which(&self, f: &Floating) -> String {
        let mut which = f.ip.to_string();
        if self.config.floating.iter().filter(|other| other.ip == f.ip).count() > 1 {
            which += &format!(" --network {}", f.network);
            if !f.only.is_empty() {
                let only: Vec<String> = f.only.iter().map(ToString::to_string).collect();
                which += &format!(" --only {}", only.join(","));
            }
        }
        which
    }

    /// The floating IPs that another rVM claims.
    fn claim_misfits(&self) -> Vec<Misfit> {
        let now = self.now;
        let fresh = |claim: &Claim| now.since(claim.last) < CLAIM;
        let mut misfits = Vec::new();
        for (&(ip, vni, owner, mac), claim) in self.strangers.claims.iter().filter(|(_, c)| fresh(c)) {
            // If the packet came through a relay, the claimant is not the peer that delivered it.
            let by_mac = self.config.peer.iter().find(|p| reconcile::switch_mac(&p.name) == mac);
            let by_id = || self.config.peer.iter().find(|p| self.ids.peer(&p.name) == Some(claim.peer));
            let Some(who) = by_mac.or_else(by_id).map(|p| p.name.as_str()) else { continue };
            let on_it = |f: &&Floating| {
                f.ip == ip && self.config.network(&f.network).is_some_and(|n| n.vni == vni.get())
            };
            let mut mappings = self.config.floating.iter().filter(on_it).peekable();
            let Some((gateway, which)) = mappings.peek().map(|f| (f.gateway.clone(), self.which(f))) else {
                continue;
            };
            let (what, how) = if !owner {
                if mappings.any(|f| f.gateway == who) {
                    continue;
                }
                let what = format!("peer \"{who}\" claims to be its gateway, which is \"{gateway}\" here");
                (what, format!("set the same `gateway` on every rVM: `ivctl fip set {which} --gateway RVM`"))
            } else {
                // After a move, the claims come from the old place first and then from the new one. Two owners claim
                // in turns.
                let others = self.strangers.claims.range((ip, vni, true, MacAddr::ZERO)..);
                let others = others.take_while(|((i, v, o, _), _)| (*i, *v, *o) == (ip, vni, true));
                let in_turns = |((.., m), c): (&(_, _, _, MacAddr), &Claim)| {
                    *m > mac && fresh(c) && c.first < claim.last && claim.first < c.last
                };
                let another = others.into_iter().any(in_turns);
                let here = mappings.any(|f| f.inside.is_some());
                let what = match (here, another) {
                    (true, _) => {
                        format!("peer \"{who}\" answers for it (`inside` is set there), and so does this rVM")
                    }
                    (false, true) => {
                        format!("two rVMs answer for it, \"{who}\" and another: `inside` is set on both")
                    }
                    (false, false) => continue,
                };
                (
                    what,
                    format!(
                        "keep `inside` on the rVM of its owner only: `ivctl fip set {which} --unset inside`"
                    ),
                )
            };
            misfits.push(Misfit { object: ip.to_string(), what: format!("floating {ip}: {what}"), how });
        }
        misfits
    }
}
