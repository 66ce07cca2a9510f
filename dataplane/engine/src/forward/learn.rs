//! Learning: the only stage that writes to a table.

use super::Tables;
use super::classify::{Admission, From, Probe};
use super::parse::{Headers, Net};
use crate::command::{Location, Vni};
use crate::table::fdb::Learned;
use crate::time::Instant;
use crate::wire::arp::Arp;
use crate::wire::icmp;
use crate::wire::ip::Ip;
use crate::wire::l4;
use crate::wire::mac::MacAddr;
use crate::wire::{nd, view};

/// Records the location of the frame's sender, and the IP address that it announces. Returns the location if
/// it is new, and whether the station was elsewhere before.
#[inline]
pub fn learn(
    tables: &mut Tables,
    now: Instant,
    adm: &Admission,
    h: &Headers,
    probe: &Probe,
    bytes: &[u8],
) -> Option<(Location, bool)> {
    let location = match adm.from {
        From::Port(id) => Location::Port(id),
        From::Peer(id, _) if adm.station => Location::Peer(id),
        _ => return None,
    };
    let learned = match adm.station {
        true => tables.fdb.learn(now, probe.src, location, adm.fdb_max),
        false => Learned::Same,
    };
    let news = matches!(learned, Learned::New | Learned::Moved).then_some(location);
    let told = news.map(|location| (location, learned == Learned::Moved));
    if adm.vid != 0 {
        return told;
    }
    if news.is_some() {
        station_moved(tables, adm.vni, h.eth_src, news);
    }
    let nd = h.proto == l4::ICMPV6
        && h.l4 != 0
        && matches!(h.icmp_type(), icmp::NEIGHBOR_SOLICITATION | icmp::NEIGHBOR_ADVERTISEMENT);
    if h.net == Net::Arp || nd {
        hear(tables, now, adm.vni, h, bytes);
    }
    told
}

/// Updates the floating IPs that send to a station, after its MAC moved or was forgotten.
pub fn station_moved(tables: &mut Tables, vni: Vni, mac: MacAddr, location: Option<Location>) {
    if tables.floating.stations_at(vni, mac).is_empty() {
        return;
    }
    tables.changed();
    for ip in tables.floating.stations_at(vni, mac).to_vec() {
        tables.floating.resolve(vni, ip, Some(mac), location);
    }
}

#[cold]
fn hear(tables: &mut Tables, now: Instant, vni: Vni, h: &Headers, bytes: &[u8]) {
    let (ip, mac) = match h.net {
        Net::Arp => match view::<Arp>(bytes, usize::from(h.l3)) {
            Some(arp) => (h.src, arp.sender_mac),
            None => return,
        },
        _ if h.icmp_type() == icmp::NEIGHBOR_SOLICITATION => {
            match nd::link_layer(h.segment(bytes), icmp::OPTION_SOURCE_MAC) {
                Some(mac) => (h.src, mac),
                None => return,
            }
        }
        _ => match nd::target(h.segment(bytes)) {
            Some(target) => {
                let mac = nd::link_layer(h.segment(bytes), icmp::OPTION_TARGET_MAC);
                (target, mac.unwrap_or(h.eth_src))
            }
            None => return,
        },
    };
    // A station speaks for itself: an answer whose MAC is not its sender's is a forgery, or comes from a
    // proxy that the switch does not know.
    if mac == h.eth_src && ip != Ip::default() && tables.neighbors.heard(now, vni, ip, mac) {
        let location = tables.fdb.get(vni, 0, mac);
        tables.changed();
        tables.floating.resolve(vni, ip, Some(mac), location);
    }
}
