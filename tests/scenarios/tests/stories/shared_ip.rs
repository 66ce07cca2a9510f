//! Public IPs that several iVMs share, each with ports of its own.

use engine::counters::DropReason;
use scenarios::{PRIVATE, allow_internet, floating, guest_port, head, mac, peer};
use sim::guest::HostSpec;
use sim::packet;
use sim::world::{MS, SEC, World};

use crate::floating::ip;

/// A shared public IP: HTTP goes to one iVM, mail to another, and the other ports to neither.
#[test]
fn n27_shared_public_ip() {
    let mut w = World::new(27);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let r1 = head("rvm1", "10.0.0.11")
        + &peer("rvm2", "10.0.0.12", "")
        + &peer("rvm3", "10.0.0.13", "")
        + &floating(
            "56.0.0.11",
            "rvm1",
            Some("10.0.0.11"),
            "inside = { network = \"private\", address = \"192.168.1.2\" }\nonly = [\"tcp/80\"]",
        )
        + &floating(
            "56.0.0.11",
            "rvm1",
            Some("10.0.0.11"),
            "inside = { network = \"private\", address = \"192.168.1.3\" }\nonly = [\"tcp/25\"]",
        );
    let r1 = r1.replace("vni = 100\n", "vni = 100\ngateway = [\"192.168.1.1\"]\n")
        + &guest_port("h2", "private", &mac(2), &["192.168.1.2"])
        + &guest_port("h3", "private", &mac(3), &["192.168.1.3"]);
    let rvm1 = w.rvm(site, "rvm1", &["10.0.0.11"], &r1);
    w.public_ip(rvm1, "10.0.0.11", "56.0.0.11");
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    let web =
        w.guest(rvm1, "h2", HostSpec::new("web", &mac(2), PRIVATE, &["192.168.1.2/24"]).via("192.168.1.1"));
    let mail =
        w.guest(rvm1, "h3", HostSpec::new("mail", &mac(3), PRIVATE, &["192.168.1.3/24"]).via("192.168.1.1"));
    allow_internet(&mut w, PRIVATE, "192.168.1.2", "8.8.8.8");
    allow_internet(&mut w, PRIVATE, "192.168.1.3", "8.8.8.8");
    w.start_all();
    w.settle();
    for port in [80, 25] {
        w.h(web).serve(port);
        w.h(mail).serve(port);
    }
    assert!(!w.tcp(host, "56.0.0.11", 80, 30_000, 30_000).failed);
    assert_eq!((w.h(web).served, w.h(mail).served), (30_000, 0));
    assert!(!w.tcp(host, "56.0.0.11", 25, 30_000, 30_000).failed);
    assert_eq!((w.h(web).served, w.h(mail).served), (30_000, 30_000));
    let kernel = w.r(rvm1).journal.kernel_rx.len();
    let dst = ip("56.0.0.11");
    let app = w.act(host, |h, now| h.transfer(now, (dst, 110), 10, 0, 3 * SEC));
    assert!(w.wait(host, app).failed);
    assert!(w.r(rvm1).journal.kernel_rx.len() > kernel, "port 110 is nobody's: it stays with rVM1's kernel");
    // From a port that is not theirs.
    let p = packet::tcp(ip("192.168.1.2"), ip("8.8.8.8"), 1000, 80, 2, b"");
    let before = w.r(rvm1).drops("h2", DropReason::PortNotMapped);
    w.inject(
        web,
        packet::eth_ip(
            "02:69:76:00:00:64".parse().unwrap(),
            mac(2).parse().unwrap(),
            &packet::ip(ip("192.168.1.2"), ip("8.8.8.8"), packet::TCP, &p),
        ),
    );
    w.run_for(MS);
    assert_eq!(w.r(rvm1).drops("h2", DropReason::PortNotMapped), before + 1);
    w.finish();
}

/// A shared public IP whose iVMs live on two other rVMs: the gateway knows both inside addresses and sends each port
/// to its own iVM. The answers leave as the shared address, and so do packets that iVMs send from their ports.
#[test]
fn n27_shared_public_ip_over_two_rvms() {
    let mut w = World::new(270);
    let site = w.site("east", &["10.0.0.0/16"], true);
    let rule = |n: u8| {
        let port = [80, 25][usize::from(n)];
        format!(
            "inside = {{ network = \"private\", address = \"192.168.1.{}\" }}\nonly = [\"tcp/{port}\"]",
            2 + n
        )
    };
    let gateway = "vni = 100\ngateway = [\"192.168.1.1\"]\n";
    let text = head("gw", "10.0.0.11").replace("vni = 100\n", gateway)
        + &peer("o0", "10.0.0.20", "")
        + &peer("o1", "10.0.0.21", "")
        + &floating("56.0.0.11", "gw", Some("10.0.0.11"), &rule(0))
        + &floating("56.0.0.11", "gw", Some("10.0.0.11"), &rule(1));
    let gw = w.rvm(site, "gw", &["10.0.0.11"], &text);
    w.public_ip(gw, "10.0.0.11", "56.0.0.11");
    let host = w.internet_host("internet", &["8.8.8.8/24"]);
    let ivms = [0u8, 1].map(|n| {
        let (own, other) = (format!("10.0.0.2{n}"), 1 - n);
        let text = head(&format!("o{n}"), &own).replace("vni = 100\n", gateway)
            + &guest_port("h1", "private", &mac(u32::from(n)), &[&format!("192.168.1.{}", 2 + n)])
            + &peer("gw", "10.0.0.11", "")
            + &peer(&format!("o{other}"), &format!("10.0.0.2{other}"), "")
            + &floating("56.0.0.11", "gw", None, &rule(n));
        let rvm = w.rvm(site, &format!("o{n}"), &[&own], &text);
        let ip = format!("192.168.1.{}/24", 2 + n);
        w.guest(
            rvm,
            "h1",
            HostSpec::new(&format!("ivm{n}"), &mac(u32::from(n)), PRIVATE, &[&ip]).via("192.168.1.1"),
        )
    });
    allow_internet(&mut w, PRIVATE, "192.168.1.2", "8.8.8.8");
    allow_internet(&mut w, PRIVATE, "192.168.1.3", "8.8.8.8");
    w.start_all();
    w.settle();
    for v in ivms {
        w.h(v).serve(80);
        w.h(v).serve(25);
    }
    for (n, port) in [80, 25].into_iter().enumerate() {
        let r = w.tcp(host, "56.0.0.11", port, 30_000, 30_000);
        assert_eq!((r.failed, r.bad), (false, 0), "port {port}: {:?}", w.r(gw).all_drops());
        assert_eq!(w.h(ivms[n]).served, 30_000);
    }
    let now = w.now_ns;
    let rows = w.r(gw).floating(now);
    assert!(
        rows.len() == 2 && rows.iter().all(|r| r.inbound.frames > 20 && r.outbound.frames > 20),
        "{rows:?}"
    );
    w.finish();
}
