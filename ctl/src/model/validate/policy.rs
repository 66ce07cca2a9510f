//! The rules for a port's policy: limits, guards, quarantine, mirrors.

use super::{Checker, Conflict, Invalid, Place, Port, suggest};

/// The smallest rate limit; below it a policer passes next to nothing.
const BPS_MIN: u64 = 1_000;
/// The largest rate limit; a larger one is a mistake.
const BPS_MAX: u64 = 1_000_000_000_000;

impl Checker<'_> {
    /// Checks that limits have an effect, that a guard applies to the port, and that a mirror has a valid target.
    pub(super) fn port_policy(&mut self, place: Place, object: &str, p: &Port) {
        for (way, bps, pps, burst) in [
            ("ingress", p.ingress_bps, p.ingress_pps, p.ingress_burst),
            ("egress", p.egress_bps, p.egress_pps, p.egress_burst),
        ] {
            if let Some(bps) = bps.filter(|bps| !(BPS_MIN..=BPS_MAX).contains(bps)) {
                let cause = format!("{way}_bps {bps} is out of range");
                let remedy = format!("use {BPS_MIN} to {BPS_MAX}, or leave it out for no limit");
                self.error(place, Invalid, object, cause, remedy);
            }
            if pps == Some(0) {
                let cause = format!("{way}_pps is 0, so nothing would pass");
                self.error(place, Invalid, object, cause, "leave it out for no limit, or use `quarantine`");
            }
            if burst.is_some() && bps.is_none() {
                let cause = format!("{way}_burst is set without {way}_bps");
                self.error(place, Invalid, object, cause, format_args!("add {way}_bps, or remove it"));
            }
            if burst == Some(0) {
                let cause = format!("{way}_burst is 0");
                self.error(place, Invalid, object, cause, "use some thousand bytes, or leave it out");
            }
        }
        if p.errdisable_recovery == Some(0) {
            let cause = "errdisable_recovery is 0 seconds";
            self.error(place, Invalid, object, cause, "use 30 or more, or leave it out for never");
        }
        if p.errdisable_recovery.is_some() && !p.bpdu_guard {
            let cause = "errdisable_recovery is set without a guard that could disable the port";
            self.error(place, Invalid, object, cause, "write `bpdu_guard = true`, or remove it");
        }
        let Some(target) = &p.mirror else { return };
        let config = self.config;
        match config.port(target) {
            _ if *target == p.name => {
                let cause = "it is mirrored to itself";
                self.error(place, Invalid, object, cause, "name the port that receives the copies");
            }
            None => {
                let known: Vec<_> = config.port.iter().map(|p| p.name.as_str()).take(20).collect();
                let cause = format!("there is no port \"{target}\" to mirror it to");
                let remedy = format!("add the port first; {}", suggest(target, &known));
                self.missing(place, "port", object, cause, remedy);
            }
            Some(port) if port.mirror.is_some() => {
                let cause = format!("port \"{target}\", which it is mirrored to, is mirrored itself");
                self.error(
                    place,
                    Conflict,
                    object,
                    cause,
                    "a mirror target only receives copies: name another",
                );
            }
            Some(_) => {}
        }
    }
}
