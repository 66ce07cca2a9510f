//! Any bytes as a guest's DHCP message: no panic, every frame accounted for, and every reply is an answer to
//! that guest, from the network's own server, with correct checksums.
#![no_main]

use engine::command::*;
use engine::forward::Switch;
use engine::frame::{Batch, FramePool, HeapPool};
use engine::time::{Duration, Instant};
use engine::wire::checksum;
use engine::wire::ip::Ip;
use engine::wire::mac::MacAddr;
use libfuzzer_sys::fuzz_target;

const GUEST: PortId = PortId(0);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
const ROUTER: MacAddr = MacAddr([2, 0x69, 0x76, 0, 0, 1]);
/// Bytes of IP and UDP headers.
const V4_HEADERS: usize = 28;
const V6_HEADERS: usize = 48;

fn switch(pool: &mut HeapPool, now: Instant) -> Switch {
    let prefix = |text: &str, len| IpPrefix { addr: text.parse().expect("an address"), len };
    let vni = Vni::new(1).expect("a VNI");
    let mut switch = Switch::new(1);
    let network = NetworkConfig {
        vni,
        gateways: vec![prefix("10.1.0.1", 32).addr],
        router_mac: ROUTER,
        fdb_max: 16,
        fdb_age: Duration::from_secs(5),
        mss_clamp: true,
        dhcp: Some(Box::new(DhcpConfig {
            prefixes: vec![prefix("10.1.0.0", 24), prefix("fd01::", 64)],
            dns: ["9.9.9.9", "1.1.1.1", "8.8.8.8", "fd01::1", "fd01::2", "fd01::3"]
                .map(|ip| prefix(ip, 0).addr)
                .to_vec(),
            boot: Some(BootConfig { server: Some([10, 1, 0, 9].into()), file: b"pxelinux.0".to_vec() }),
        })),
    };
    let port = PortConfig {
        vni: Some(vni),
        role: Role::Guest,
        live: true,
        mtu: 1450,
        vlan: VlanPolicy::Transparent,
        binding: Box::new(Binding {
            macs: vec![MAC],
            ips: vec![prefix("10.1.0.5", 32), prefix("fd01::5", 128)],
            ..Binding::default()
        }),
        bum_pps: None,
        policy: Box::default(),
        fdb_max: 8,
    };
    switch.apply(now, Command::SetNetwork(network), pool);
    switch.apply(now, Command::SetPort(GUEST, port), pool);
    switch
}

/// The message in headers as a client writes them.
fn frame(v4: bool, unicast: bool, message: &[u8]) -> Vec<u8> {
    let udp_len = (message.len() + 8) as u16;
    let mut frame = Vec::new();
    frame.extend(if unicast {
        ROUTER.0
    } else if v4 {
        [255; 6]
    } else {
        [0x33, 0x33, 0, 1, 0, 2]
    });
    frame.extend(MAC.0);
    if v4 {
        frame.extend([8, 0]);
        let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
        ip[2..4].copy_from_slice(&(udp_len + 20).to_be_bytes());
        let sum = !checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        frame.extend([0, 68, 0, 67]);
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(udp_len.to_be_bytes());
        frame.extend([17, 1]);
        frame.extend(MAC.link_local());
        frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);
        frame.extend([2, 34, 2, 35]);
    }
    frame.extend(udp_len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&options, message)) = bytes.split_first() else { return };
    let v4 = options & 1 == 0;
    let message = &message[..message.len().min(1400)];
    let mut pool = HeapPool::new(8, 1);
    let now = Instant::from_millis(1);
    let mut switch = switch(&mut pool, now);
    let mut batch = Batch::new();
    batch.push(pool.alloc_from(&frame(v4, options & 2 != 0, message)).expect("room"));
    switch.forward(now, GUEST, &mut batch, &mut pool);
    switch.flush(GUEST, &mut pool, |pool, queue| {
        for frame in queue.drain(..) {
            let answer = pool.bytes(&frame);
            assert_eq!((&answer[..6], &answer[6..12]), (&MAC.0[..], &ROUTER.0[..]));
            let headers = if v4 { V4_HEADERS } else { V6_HEADERS };
            let (ip, message) = answer[14..].split_at(headers);
            let udp = &answer[14 + headers - 8..];
            let (src, dst) = match v4 {
                true => (
                    Ip::v4(ip[12..16].try_into().expect("four")),
                    Ip::v4(ip[16..20].try_into().expect("four")),
                ),
                false => {
                    (Ip::v6(ip[8..24].try_into().expect("16")), Ip::v6(ip[24..40].try_into().expect("16")))
                }
            };
            assert!(checksum::transport_ok(src, dst, 17, udp));
            let given = if v4 { &message[16..20] } else { &message[..0] };
            assert!(given.is_empty() || given == [10, 1, 0, 5] || given == [0; 4], "another's address");
            pool.free(frame);
        }
        Ok(())
    });
    assert!(switch.counters().conserved(), "{:?}", switch.counters());
    assert_eq!(pool.usage().used, 0, "a slot leaked");
});
