//! The MAC addresses that the switch makes up: the same on every machine and in every version.

use engine::wire::mac::MacAddr;

/// A stable 64-bit hash (FNV-1a): the same on every machine and in every version.
#[must_use]
pub fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

fn local_mac(kind: u8, low: u32) -> MacAddr {
    let [_, a, b, c] = low.to_be_bytes();
    MacAddr([0x02, 0x69, kind, a, b, c])
}

/// The MAC address of a network's virtual gateway: 02:69:76 and the VNI.
#[must_use]
pub fn router_mac(vni: u32) -> MacAddr {
    local_mac(0x76, vni)
}

/// The MAC address of this switch on every network: 02:69:77 and a hash of the rVM's name.
#[must_use]
pub fn switch_mac(name: &str) -> MacAddr {
    local_mac(0x77, stable_hash(&[name]) as u32)
}

/// The MAC address of the CMS's end of a door: 02:69:78 and a hash of the rVM's identity and the port's name.
#[must_use]
pub fn door_mac(identity: u64, port: &str) -> MacAddr {
    local_mac(0x78, stable_hash(&[&identity.to_string(), port]) as u32)
}

/// Whether the address may belong to a door.
#[must_use]
pub fn is_door_mac(mac: MacAddr) -> bool {
    mac.0[..3] == [0x02, 0x69, 0x78]
}
