//! While the daemon is not running, the rVM's own kernel does not answer the Internet in a floating IP's place.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use system::{Lab, Namespace, Session, Switch, binaries, transfer, wait_for};

use crate::topology::{Underlay, V4, V6, underlay_pair};

/// A service of the rVM that is not meant for the Internet.
const SERVICE: u16 = 5000;

/// Longer than an answer takes, and short enough to ask often.
const PATIENCE: Duration = Duration::from_millis(300);

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("an address"), port)
}

/// An rVM whose address is a floating IP's reality address; `far` is the Internet, on the provider's network.
fn config(kind: &str, underlay: Underlay, reality: &str, rest: &str) -> String {
    let (public, gateway) =
        if reality.contains(':') { ("2001:db8:56::11", "fd00:2::1") } else { ("56.0.0.11", "10.2.0.1") };
    format!(
        "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{}\"\nkind = \"{kind}\"\n\
         [[network]]\nname = \"public\"\nvni = 200\ngateway = [\"{gateway}\"]\n\
         [[floating]]\nip = \"{public}\"\nnetwork = \"public\"\ngateway = \"rvm\"\nreality = \"{reality}\"\n{rest}",
        underlay.ours
    )
}

/// Listens in the rVM and sends a byte to every client, until the namespace goes.
fn serve(rvm: &Namespace, port: u16) {
    let listener = rvm.run(move || TcpListener::bind(at("::", port))).expect("a free port");
    rvm.spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| io::Write::write_all(&mut stream, b"!"));
        }
    });
}

/// Whether the kernel answers there; a refusal counts as an answer.
fn answers(from: &Namespace, to: SocketAddr) -> bool {
    from.run(move || match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    })
}

/// Connects to a service again and again.
struct Prober {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: JoinHandle<u64>,
}

impl Prober {
    fn start(from: &Namespace, to: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = from.spawn(move || {
            let mut answered = 0;
            while !stopped.load(Ordering::Relaxed) {
                let outcome = TcpStream::connect_timeout(&to, Duration::from_millis(50));
                let refused = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
                answered += u64::from(outcome.as_ref().map_or_else(refused, |_| true));
                counted.fetch_add(1, Ordering::Relaxed);
            }
            answered
        });
        Self { stop, asked, thread }
    }

    /// Waits for some more attempts.
    fn more(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        wait_for("more questions", || self.asked.load(Ordering::Relaxed) >= before + 4);
    }

    /// The number of attempts that were answered.
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the prober")
    }
}

fn is_closed(switch: &Switch) -> bool {
    switch.json("status")["closed"]["in_place"] == true
}

fn table(rvm: &Namespace) -> Option<String> {
    let output =
        rvm.command("nft").args(["list", "table", "inet", "ivswitch"]).output().expect("running nft");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The daemon is stopped, killed, killed again and again, refused, restarted: the kernel's own service never answers
/// the Internet, not even through a port that another tool forwards to it. SSH answers all the time, and connections
/// that the rVM itself opens while the daemon is not running work.
fn stays_closed(kind: &str, underlay: Underlay) {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, underlay);
    far.reaches(underlay.ours);
    serve(&rvm, SERVICE);
    rvm.nft("table inet other { chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 redirect to :5000; }\n}\n");
    assert!(answers(&far, at(underlay.ours, SERVICE)), "the service is there");
    assert!(answers(&far, at(underlay.ours, 8080)), "and forwarded to");
    let ssh = Session::start(&far, &rvm, at(underlay.ours, 22), at(underlay.ours, 22));

    let mut switch = Switch::start(&lab, &rvm, &config(kind, underlay, underlay.ours, ""));
    wait_for("the rule", || is_closed(&switch));
    switch.wait_live(&["uplink"]);
    let probers = [SERVICE, 8080, 81].map(|port| Prober::start(&far, at(underlay.ours, port)));
    let own = || {
        let there = at(underlay.far, 80);
        transfer(&rvm, &far, there, there, 100_000);
        rvm.reaches(underlay.far);
    };
    assert!(switch.terminate().success());
    probers.iter().for_each(Prober::more);
    own();
    assert_eq!(far.ping(&format!("-c2 -i0.1 -W1 {}", underlay.ours)), 0, "a ping tells who watches");
    ssh.assert_alive("while the daemon is stopped");
    switch.start_again();
    for _ in 0..5 {
        switch.kill();
        probers.iter().for_each(Prober::more);
        switch.start_again();
    }
    switch.kill();
    own();
    // A loop of starts that end immediately.
    let good = std::fs::read_to_string(switch.config()).unwrap();
    std::fs::write(switch.config(), "this is no configuration").unwrap();
    for _ in 0..3 {
        switch.start_refused();
        probers[0].more();
    }
    std::fs::write(switch.config(), good).unwrap();
    switch.start_again();
    probers.iter().for_each(Prober::more);
    ssh.assert_alive("in the end");
    ssh.finish();
    assert_eq!(probers.map(Prober::finish), [0, 0, 0], "answers of the kernel");
    assert_eq!(switch.json("status")["closed"]["restored"], 0);
}

#[test]
fn the_reality_address_stays_closed_by_afxdp() {
    stays_closed("afxdp", V4);
}

#[test]
fn the_reality_address_stays_closed_by_packet() {
    stays_closed("packet", V4);
}

#[test]
fn the_reality_address_stays_closed_over_ipv6() {
    stays_closed("afxdp", V6);
}

/// A second address is closed, and the rVM's own address is not. Of an address that is shared by ports, only these
/// ports are closed. When the mapping is removed, so is the rule.
#[test]
fn what_is_closed_follows_the_configuration() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    rvm.ip("addr add 10.0.0.20/16 dev eth0");
    far.reaches(V4.ours);
    [SERVICE, 5001].iter().for_each(|port| serve(&rvm, *port));
    let second = config("afxdp", V4, "10.0.0.20", "");
    let mut switch = Switch::start(&lab, &rvm, &second);
    wait_for("the rule", || is_closed(&switch));
    assert!(switch.ivctl("status").stdout.contains("\nclosed to the kernel: 10.0.0.20\n"));
    switch.kill();
    assert!(!answers(&far, at("10.0.0.20", SERVICE)));
    assert!(answers(&far, at("10.0.0.20", 22)), "SSH");
    assert!(answers(&far, at(V4.ours, SERVICE)), "not the other address");

    std::fs::write(switch.config(), config("afxdp", V4, V4.ours, "only = [\"tcp/5000\"]\n")).unwrap();
    switch.start_again();
    wait_for("the other rule", || {
        is_closed(&switch) && switch.json("status")["closed"]["addresses"] == serde_json::json!([V4.ours])
    });
    switch.kill();
    assert!(!answers(&far, at(V4.ours, SERVICE)), "the floating IP's port");
    assert!(answers(&far, at(V4.ours, 5001)), "the rVM's");
    assert!(answers(&far, at("10.0.0.20", SERVICE)), "what is mapped no more");

    switch.start_again();
    std::fs::write(switch.config(), "name = \"rvm\"\n[uplink]\ninterface = \"eth0\"\n").unwrap();
    switch.reload();
    wait_for("the table to go", || table(&rvm).is_none());
    assert!(answers(&far, at(V4.ours, SERVICE)));
    switch.kill();
    assert!(answers(&far, at(V4.ours, SERVICE)));
}

/// Another tool flushes every rule, or changes ours: it is restored within seconds, the log reports it, and `doctor`
/// remembers. Rules of other tools are left alone.
#[test]
fn a_rule_that_others_removed_is_put_back() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    serve(&rvm, SERVICE);
    let mut switch = Switch::start(&lab, &rvm, &config("afxdp", V4, V4.ours, ""));
    wait_for("the rule", || is_closed(&switch));
    let before = table(&rvm);
    let changes = ["flush ruleset", "flush chain inet ivswitch arriving", "delete table inet ivswitch"];
    for (times, change) in (1..).zip(changes) {
        rvm.nft(change);
        wait_for("it to be put back", || switch.json("status")["closed"]["restored"] == times);
        assert_eq!(table(&rvm), before, "after: {change}");
    }
    assert!(switch.log().contains("another program removed or changed the table"), "{}", switch.log());
    let doctor = switch.ivctl("doctor").stdout;
    assert!(doctor.contains("another program removed the rule 3 times"), "{doctor}");
    // Other tools add and remove rules of their own.
    rvm.nft("table ip other { chain x { }\n}\n");
    rvm.nft("delete table ip other");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(switch.json("status")["closed"]["restored"], 3);
    switch.kill();
    assert!(!answers(&far, at(V4.ours, SERVICE)));
}

/// At boot: the rule is in place without a daemon, also where the configuration is refused, and removed where it no
/// longer has a mapping.
#[test]
fn closed_before_the_daemon_is_there() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    far.reaches(V4.ours);
    serve(&rvm, SERVICE);
    let (file, state) = (lab.dir().join("boot.toml"), lab.dir().to_path_buf());
    let close = |text: &str| -> Output {
        std::fs::write(&file, text).unwrap();
        let mut command = rvm.command(binaries().join("ivswitchd"));
        command
            .arg("--close")
            .arg("--config")
            .arg(&file)
            .arg("--state")
            .arg(&state)
            .output()
            .expect("running it")
    };
    let good = config("afxdp", V4, V4.ours, "");
    let done = close(&good);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "closed to the kernel: 10.0.0.11\n");
    assert!(!answers(&far, at(V4.ours, SERVICE)));
    assert!(answers(&far, at(V4.ours, 22)));
    rvm.nft("flush ruleset");
    let done = close("this is no configuration");
    assert!(done.status.success() && !done.stderr.is_empty(), "{done:?}");
    assert!(!answers(&far, at(V4.ours, SERVICE)), "as before");
    assert!(close("name = \"rvm\"\n").status.success());
    assert_eq!(table(&rvm), None);
    assert!(answers(&far, at(V4.ours, SERVICE)));
    rvm.nft("flush ruleset");
    assert!(!close("this is no configuration").status.success(), "nothing was closed before");
    // A missing interface does not prevent it: rules name the interface.
    rvm.ip("link delete eth0");
    assert!(close(&good).status.success());
}

/// A machine without nftables: tc filters, which outlive the daemon, close the address by the rules of steering. The
/// status reports them, and they are removed as soon as nftables works, or when the last mapping is removed.
#[test]
fn closed_without_nftables() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, far) = underlay_pair(&lab, V4);
    far.reaches(V4.ours);
    serve(&rvm, SERVICE);
    let ssh = Session::start(&far, &rvm, at(V4.ours, 22), at(V4.ours, 22));
    let filters = || {
        let tc = |way| {
            rvm.command("tc").args(["filter", "show", "dev", "eth0", way]).output().expect("running tc")
        };
        ["ingress", "egress"].map(|way| String::from_utf8_lossy(&tc(way).stdout).contains("ivs_closed"))
    };
    for kind in ["afxdp", "packet"] {
        let config = config(kind, V4, V4.ours, "");
        let mut switch = Switch::start_with(&lab, &rvm, &config, &["--nft", "/nonexistent"]);
        wait_for("the rule", || is_closed(&switch));
        switch.wait_live(&["uplink"]);
        assert_eq!((table(&rvm), filters()), (None, [true, true]));
        let told = switch.json("status")["closed"]["instead"].clone();
        assert!(told.as_str().is_some_and(|told| told.contains("nftables")), "{told}");
        let prober = Prober::start(&far, at(V4.ours, SERVICE));
        let own = || {
            let there = at(V4.far, 80);
            transfer(&rvm, &far, there, there, 100_000);
            rvm.reaches(V4.far);
        };
        own();
        switch.kill();
        prober.more();
        own();
        assert_eq!(far.ping(&format!("-c2 -i0.1 -W1 {}", V4.ours)), 0);
        ssh.assert_alive("while the daemon is dead");
        assert_eq!(prober.finish(), 0);
        // With nftables again.
        switch.start_again();
        wait_for("the table", || is_closed(&switch) && table(&rvm).is_some());
        wait_for("the filters to go", || filters() == [false, false]);
        std::fs::write(switch.config(), "name = \"rvm\"\n").unwrap();
        switch.reload();
        wait_for("the table to go", || table(&rvm).is_none());
        assert!(answers(&far, at(V4.ours, SERVICE)));
    }
    ssh.finish();
}
