//! The life of a configuration, with the real daemon and the real disk.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use system::{Lab, Stream, Switch, binaries, rounds, wait_for, wait_until};

use crate::topology::{host, network, port};

/// A configuration of two hosts that reach each other.
fn pair() -> String {
    network("private", 100) + &port("h1", "private") + &port("h3", "private")
}

/// Twenty reloads, each with a changed file and drop-in that touch the ports and the network of a stream:
/// none of its packets is lost, doubled or out of order.
#[test]
fn a_reload_loses_no_frame() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let h1 = host(&lab, &rvm, "h1", &["10.1.0.1/24"]);
    let h3 = host(&lab, &rvm, "h3", &["10.1.0.3/24"]);
    let mut switch = Switch::start(&lab, &rvm, &pair());
    h1.reaches("10.1.0.3");
    let drop_ins = switch.config().with_extension("toml.d");
    fs::create_dir(&drop_ins).expect("our own directory");
    let stream = Stream::start(&h1, &h3, "10.1.0.3:9".parse().unwrap(), 5000);
    stream.wait_more(200, "at the start");
    for n in 0..20 {
        let changed = pair().replace("vni = 100\n", &format!("vni = 100\nfdb_age = {}\n", 100 + n))
            + &format!("bum_pps = {}\n", 5000 + n)
            + &network(&format!("extra{n}"), 1000 + n);
        fs::write(switch.config(), changed).expect("our own file");
        fs::write(drop_ins.join("50-more.toml"), network(&format!("drop{n}"), 2000 + n))
            .expect("our own file");
        switch.reload();
        let drop = format!("drop{n}");
        wait_for("the reload", || switch.ivctl("network list").stdout.contains(&drop));
    }
    stream.wait_more(200, "after the reloads");
    let report = stream.finish();
    println!("20 reloads: {report}");
    assert_eq!((report.lost(), report.twice, report.reordered), (0, 0, 0), "{report}");
    // A file with a mistake changes nothing either.
    fs::write(drop_ins.join("60-wrong.toml"), "[[port]]\nname = \"x\"\nnetwork = \"nowhere\"\n")
        .expect("ours");
    switch.reload();
    wait_for("the refusal", || switch.log().contains("60-wrong.toml: port \"x\""));
    assert!(switch.ivctl("network list").stdout.contains("drop19"));
    switch.assert_running();
}

/// `config diff` shows a difference, exits with code 1 and changes nothing. A commit-confirmed configuration is in
/// force but not in the file, and is rolled back by itself; a confirmed one stays.
#[test]
fn a_trial_on_the_real_daemon() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let switch = Switch::start(&lab, &rvm, &network("private", 100));
    let file = switch.config().to_path_buf();
    let before = fs::read_to_string(&file).unwrap();
    let new = lab.dir().join("new.toml");
    fs::write(&new, network("private", 100) + &network("public", 200)).unwrap();
    let (same, other) = (file.display().to_string(), new.display().to_string());

    assert_eq!(switch.ivctl(&format!("config diff {same}")).code, 0);
    let diff = switch.ivctl(&format!("config diff {other}"));
    assert_eq!((diff.code, diff.stdout.as_str()), (1, "+ network \"public\"\n"), "{}", diff.stderr);

    let applied = switch.ivctl(&format!("config apply --confirm 1s {other}"));
    assert!(applied.code == 0 && applied.stdout.contains("config confirm"), "{applied:?}");
    assert!(switch.ivctl("network list").stdout.contains("public"));
    assert_eq!(fs::read_to_string(&file).unwrap(), before, "the file is as before");
    assert_eq!(switch.ivctl("network add x --vni 7").code, 4, "no edits meanwhile");
    wait_for("it to be taken back", || !switch.ivctl("network list").stdout.contains("public"));
    assert_eq!(switch.ivctl("config confirm").code, 3, "too late");

    assert_eq!(switch.ivctl(&format!("config apply --confirm 60s {other}")).code, 0);
    assert_eq!(switch.ivctl("config confirm").code, 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), fs::read_to_string(&new).unwrap());
}

/// SIGKILL at any moment while configurations are applied one after another: the file is always one such configuration,
/// complete, and the one last acknowledged or a later one. (Ten thousand crashes with a disk that loses all writes
/// that were not synced are a unit test of `ivswitchd`.)
#[test]
fn kill_9_inside_apply_leaves_the_old_or_the_new() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    // Large enough that writing it takes a while.
    let config = |n: u64| {
        (0..300).fold(format!("# {n}\n{}", network("private", 100)), |text, i| {
            text + &format!("[[peer]]\nname = \"p{i}\"\naddress = \"10.9.{}.{}\"\n", i / 200, 1 + i % 200)
        }) + &format!("# end {n}\n")
    };
    let mut switch = Switch::start(&lab, &rvm, &config(0));
    let (mut acknowledged, mut next, mut inside) = (0, 1, 0);
    let mut kills = 0;
    for round in rounds(20) {
        kills += 1;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, socket, first, dir) =
            (Arc::clone(&stop), switch.socket().to_path_buf(), next, lab.dir().to_path_buf());
        let applier = std::thread::spawn(move || {
            let (mut n, mut done) = (first, None);
            while !stopped.load(Ordering::Relaxed) {
                let file = dir.join("apply.toml");
                fs::write(&file, config(n)).unwrap();
                let mut ivctl = std::process::Command::new(binaries().join("ivctl"));
                ivctl.arg("--socket").arg(&socket).args(["config", "apply"]).arg(&file);
                if ivctl.output().unwrap().status.success() {
                    done = Some(n);
                }
                n += 1;
            }
            (n, done)
        });
        // Spread over the time of one apply, in steps that do not divide it.
        std::thread::sleep(Duration::from_micros(30_000 + round % 20 * 3_700));
        switch.kill();
        stop.store(true, Ordering::Relaxed);
        let (n, done) = applier.join().unwrap();
        (next, acknowledged) = (n, done.unwrap_or(acknowledged));
        let text = fs::read_to_string(switch.config()).unwrap();
        let found: u64 = text.lines().next().unwrap().trim_start_matches("# ").parse().expect("whole");
        assert_eq!(text, config(found), "round {round}: whole");
        assert!((acknowledged..next).contains(&found), "{found}, {acknowledged} was acknowledged");
        inside += u64::from(found != acknowledged || switch.config().with_extension("toml.new").exists());
        acknowledged = found;
        switch.start_again();
    }
    println!("{kills} kills while applying, {inside} of them inside an application; {next} configurations");
    assert!(wait_until(Duration::from_secs(5), || switch.ivctl("peer list").stdout.contains("p299")));
}
