//! Any bytes through the parser, as a door's frame and as the underlay's: no panic, and every offset in the
//! result lies inside the frame.
#![no_main]

use std::net::IpAddr;

use engine::command::{PortId, UplinkConfig};
use engine::forward::parse;
use engine::wire::mac::MacAddr;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut h = parse::Headers::default();
    if parse::ethernet(bytes, 0, &mut h).is_ok() {
        check(&h, bytes);
    }
    let vtep: IpAddr = [10, 0, 0, 11].into();
    let uplink = UplinkConfig {
        port: PortId(0),
        mac: bytes.first_chunk().map_or(MacAddr::ZERO, |m| MacAddr(*m)),
        vtep,
        tunnel_port: 4789,
        checksum: false,
        mtu: 1500,
        guard: Vec::new(),
        switch_mac: MacAddr([2, 0x69, 0x77, 0, 0, 1]),
        name: 1,
        reserved_bits: engine::tunnel::vxlan::RESERVED,
    };
    if parse::uplink(bytes, &uplink, vtep.into(), &mut h).is_ok() {
        check(&h, bytes);
    }
});

fn check(h: &parse::Headers, bytes: &[u8]) {
    assert!(h.end as usize <= bytes.len() && usize::from(h.eth) + 14 <= h.end as usize);
    if matches!(h.net, parse::Net::V4 | parse::Net::V6) && h.l4 != 0 {
        assert!(usize::from(h.l3) < usize::from(h.l4));
        assert!(usize::from(h.l4) + usize::from(h.l4_len) <= h.end as usize);
    }
    let _ = (h.l4_key(bytes, true), h.l4_key(bytes, false));
    let _ = parse::quoted(bytes, usize::from(h.l3));
}
