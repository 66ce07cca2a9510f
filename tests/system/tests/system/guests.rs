//! Real guests behind the switch: QEMU, software emulation, a Linux kernel.

use std::time::Instant;

use serde_json::Value;
use system::{Guest, GuestSpec, Lab, Namespace, Nic, Stream, Switch, wait_for};

use crate::topology::{V4, host, network, port, underlay_pair};

const MACS: [&str; 3] = ["52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"];
const ADDRESSES: [&str; 3] = ["10.9.0.1", "10.9.0.2", "10.9.0.3"];

/// A guest port in shared memory, bound to guest `n`'s addresses.
fn shared_port(lab: &Lab, n: usize) -> String {
    let socket = lab.dir().join(format!("g{n}.vhost"));
    format!(
        "[[port]]\nname = \"g{n}\"\nnetwork = \"private\"\nrole = \"guest\"\nkind = \"vhostuser\"\nsocket = \"{}\"\n\
         mac = [\"{}\"]\nip = [\"{}\"]\nqueues = 2\n",
        socket.display(),
        MACS[n],
        ADDRESSES[n]
    )
}

/// A guest port on the TAP `tap-gN`, whose other end is QEMU's.
fn tap_port(n: usize) -> String {
    format!(
        "[[port]]\nname = \"g{n}\"\nnetwork = \"private\"\nrole = \"guest\"\nkind = \"packet\"\ninterface = \"tap-g{n}\"\n\
         mac = [\"{}\"]\nip = [\"{}\"]\n",
        MACS[n], ADDRESSES[n]
    )
}

fn rvm_config(address: &str, peer: &str, ports: &[String]) -> String {
    format!(
        "[uplink]\ninterface = \"eth0\"\naddress = \"{address}\"\n{}{}[[peer]]\nname = \"other\"\naddress = \"{peer}\"\n",
        network("private", 100),
        ports.concat()
    )
}

fn guest(lab: &Lab, rvm: &Namespace, n: usize, queues: u32) -> Guest {
    let (name, socket) = (format!("g{n}"), lab.dir().join(format!("g{n}.vhost")));
    let (mac, address) = (MACS[n], format!("{}/24", ADDRESSES[n]));
    let nic = Nic::VhostUser(&socket, queues);
    Guest::start(lab, rvm, GuestSpec { name: &name, nic, mac, address: &address, incoming: false })
}

/// Sends a file from one guest, whose address is given, to another, and requires that it arrives unchanged. During
/// the transfer, `meanwhile` runs.
fn send_file((from, to): (&mut Guest, &mut Guest), address: &str, megabytes: u32, meanwhile: impl FnOnce()) {
    from.run(&format!("dd if=/dev/urandom of=/tmp/sent bs=1M count={megabytes}"));
    from.run("pidof httpd || httpd -p 5000 -h /tmp");
    let sent = from.run("sha256sum < /tmp/sent");
    let start = Instant::now();
    to.run("rm -f /tmp/got /tmp/code");
    to.run(&format!("(wget -O /tmp/got http://{address}:5000/sent; echo $? > /tmp/code) > /tmp/said 2>&1 &"));
    meanwhile();
    let code =
        to.run("for n in $(seq 500); do [ -s /tmp/code ] && break; sleep 0.1; done; cat /tmp/code /tmp/said");
    assert!(code.starts_with("0\n"), "wget: {code}");
    let took = start.elapsed();
    assert_eq!(to.run("sha256sum < /tmp/got"), sent);
    eprintln!("{megabytes} MB from {address}: {:.1} s", took.as_secs_f64());
}

fn row(switch: &Switch, port: &str) -> Value {
    let rows = switch.json("port list");
    let rows = rows.as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["ifname"] == port).expect("the port")
}

/// Two iVMs on one rVM in shared memory, a third on another rVM by a TAP. All reach each other, locally and through
/// the tunnel, by TCP both ways with intact data. Then the switch of the first two is killed in the middle of a
/// transfer and started again: the transfer goes on, and the guests' links never go down.
#[test]
fn guests_by_vhost_user_and_tap_and_a_switch_that_dies() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let shared = [shared_port(&lab, 0), shared_port(&lab, 1)];
    let mut switch = Switch::start(&lab, &rvm, &rvm_config(V4.ours, V4.far, &shared));
    let waits = row(&switch, "g0");
    assert_eq!((waits["state"].as_str(), waits["operstate"].as_str()), (Some("ready"), Some("DOWN")));
    let other = Switch::start(&lab, &far, &rvm_config(V4.far, V4.ours, &[tap_port(2)]));
    let address = format!("{}/24", ADDRESSES[2]);
    let spec =
        GuestSpec { name: "g2", nic: Nic::Tap("tap-g2"), mac: MACS[2], address: &address, incoming: false };
    let mut guests = [guest(&lab, &rvm, 0, 1), guest(&lab, &rvm, 1, 2), Guest::start(&lab, &far, spec)];
    guests.iter_mut().for_each(Guest::wait_up);
    switch.wait_live(&["g0", "g1"]);
    other.wait_live(&["g2"]);
    let mode = row(&switch, "g0")["mode"].clone();
    assert_eq!(mode, "checksums, TSO, mergeable, event-idx, virtio 1");

    let [g0, g1, g2] = &mut guests;
    g0.reaches(ADDRESSES[1]);
    g1.reaches(ADDRESSES[2]);
    g2.reaches(ADDRESSES[0]);
    send_file((g0, g1), ADDRESSES[0], 20, || ());
    send_file((g1, g0), ADDRESSES[1], 20, || ());
    send_file((g0, g2), ADDRESSES[0], 10, || ());
    send_file((g2, g1), ADDRESSES[2], 10, || ());

    let io = row(&switch, "g0");
    let count = |row: &Value, name: &str| row["guest"][name].as_u64().expect("a counter");
    let [rx, tx, kicks, calls] = ["rx", "tx", "kicks", "calls"].map(|name| count(&io, name));
    eprintln!("g0: {rx} frames from it, {tx} to it; {kicks} kicks and {calls} calls");
    assert!(rx > 100 && tx > 100 && kicks > 0 && calls > 0);
    assert!(kicks <= rx && calls <= rx + tx, "no more than one for a frame");
    let bytes = io["stats64"]["rx"]["bytes"].as_u64().unwrap();
    assert!(bytes / rx > 2000, "super-frames come whole: {bytes} bytes in {rx} frames");

    // The switch polls the guests' rings while frames come. Then it sleeps, until a guest kicks it.
    crate::doors::falls_asleep(&switch);
    g0.reaches(ADDRESSES[1]);

    let carrier =
        |guest: &mut Guest| guest.run("cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier");
    let before = carrier(g0);
    send_file((g0, g1), ADDRESSES[0], 30, || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        switch.kill();
        switch.start_again();
    });
    g0.reaches(ADDRESSES[1]);
    g1.reaches(ADDRESSES[2]);
    assert_eq!(carrier(g0), before, "the guest's link never dropped");
    switch.wait_live(&["g0", "g1"]);
    switch.counters_at_rest();
    other.counters_at_rest();
}

/// I-41, R-14, R-15: a guest moves from one rVM to the other while a host pings it. Its port there is open but not
/// live before the guest resumes, and live with its first frame; the FDBs of both switches follow the announcement
/// immediately. No more pings are lost than QEMU's own pause explains.
#[test]
fn i41_r14_r15_a_guest_migrates_under_traffic() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    let here = [shared_port(&lab, 0), shared_port(&lab, 1)];
    let there = [shared_port(&lab, 0).replace("g0.vhost", "g0-in.vhost")];
    let switch = Switch::start(&lab, &rvm, &rvm_config(V4.ours, V4.far, &here));
    let other = Switch::start(&lab, &far, &rvm_config(V4.far, V4.ours, &there));
    let mut g0 = guest(&lab, &rvm, 0, 1);
    let mut g1 = guest(&lab, &rvm, 1, 1);
    g0.wait_up();
    g1.wait_up();
    g1.reaches(ADDRESSES[0]);
    let (socket, address) = (lab.dir().join("g0-in.vhost"), format!("{}/24", ADDRESSES[0]));
    let nic = Nic::VhostUser(&socket, 1);
    let target = GuestSpec { name: "g0", nic, mac: MACS[0], address: &address, incoming: true };
    let moved = Guest::start(&lab, &far, target);
    wait_for("QEMU there to be met", || {
        let row = row(&other, "g0");
        row["state"] == "ready" && row["why"] == "waiting for the guest's driver"
    });

    const INTERVAL_MS: u32 = 50;
    g1.run(&format!("ping -c 100 -i 0.05 {} > /tmp/pings 2>&1 &", ADDRESSES[0]));
    let paused = g0.migrate(&moved);
    other.wait_live(&["g0"]);
    wait_for("the old port to be empty", || row(&switch, "g0")["state"] == "ready");
    let said = g1
        .run("for n in $(seq 200); do grep -q received /tmp/pings && break; sleep 0.1; done; cat /tmp/pings");
    let received = said.split(" packets received").next().and_then(|head| head.rsplit(' ').next());
    let received: u32 = received.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    let lost = 100 - received;
    eprintln!(
        "{lost} of 100 pings lost, {INTERVAL_MS} ms apart; QEMU paused it for {} ms",
        paused.as_millis()
    );
    // With software emulation on a busy machine, the guest's own clock may be a second late.
    assert!(lost * INTERVAL_MS <= paused.as_millis() as u32 + 1000, "{said}");
    let place = |switch: &Switch| {
        let rows = switch.json("fdb list");
        let rows = rows.as_array().cloned().unwrap_or_default();
        rows.iter().find(|row| row["mac"] == MACS[0]).map(|row| row["ifname"].clone())
    };
    assert_eq!((place(&switch), place(&other)), (Some("uplink".into()), Some("g0".into())));
    g1.reaches(ADDRESSES[0]);
    switch.counters_at_rest();
    other.counters_at_rest();
}

/// QEMU is killed behind a port in shared memory, then behind a TAP: the port reports it, a stream between others
/// loses nothing, the dead guest's memory is released, and starting the guest is enough to bring it back.
#[test]
fn fault_a_guest_is_killed() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let [h1, h3] = [("h1", "10.9.0.101/24"), ("h3", "10.9.0.103/24")]
        .map(|(name, address)| host(&lab, &rvm, name, &[address]));
    let config = network("private", 100)
        + &[port("h1", "private"), port("h3", "private"), shared_port(&lab, 0), tap_port(1)].concat();
    let mut switch = Switch::start(&lab, &rvm, &config);
    let tap = |name| {
        let address = format!("{}/24", ADDRESSES[1]);
        let nic = Nic::Tap("tap-g1");
        Guest::start(&lab, &rvm, GuestSpec { name, nic, mac: MACS[1], address: &address, incoming: false })
    };
    let mut guests = [guest(&lab, &rvm, 0, 1), tap("g1")];
    guests.iter_mut().for_each(Guest::wait_up);
    switch.wait_live(&["g0", "g1"]);
    ADDRESSES[..2].iter().for_each(|address| h1.reaches(address));
    let descriptors = |switch: &Switch| {
        std::fs::read_dir(format!("/proc/{}/fd", switch.pid())).expect("a running daemon").count()
    };
    let before = descriptors(&switch);
    let stream = Stream::start(&h1, &h3, "10.9.0.103:9".parse().unwrap(), 2000);
    stream.wait_more(100, "at the start");
    // SIGKILL ends a guest here.
    drop(guests);
    wait_for("both ports to tell", || {
        let (g0, g1) = (row(&switch, "g0"), row(&switch, "g1"));
        g0["state"] != "live"
            && g0["why"].as_str().is_some_and(|why| !why.is_empty())
            && g1["operstate"] == "DOWN"
    });
    println!("killed: {} and {}", row(&switch, "g0")["why"], row(&switch, "g1"));
    stream.wait_more(100, "after the guests are gone");
    let report = stream.finish();
    assert_eq!(report.lost(), 0, "{report}");
    wait_for("their descriptors to be closed", || descriptors(&switch) < before);

    rvm.ip("link del tap-g1");
    let mut guests = [guest(&lab, &rvm, 0, 1), tap("g1")];
    guests.iter_mut().for_each(Guest::wait_up);
    switch.wait_live(&["g0", "g1"]);
    ADDRESSES[..2].iter().for_each(|address| h1.reaches(address));
    switch.assert_running();
    switch.counters_at_rest();
}
