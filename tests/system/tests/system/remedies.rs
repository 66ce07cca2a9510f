//! Remedies that are commands of other programs: each works on a real interface.

use std::process::Stdio;

use system::Lab;

/// What a message may name, which `ivctl`'s own tests compare with all messages.
const LIST: &str = include_str!("../../../../ctl/src/bin/ivctl/remedies/others.txt");

/// An operator copies a command out of a warning, puts in names and addresses, and it works: no option, subcommand or
/// kernel setting in it is missing here.
#[test]
fn remedies_of_other_programs_work() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    rvm.ip("link add dev0 numrxqueues 2 numtxqueues 2 type veth peer name dev1 numrxqueues 2 numtxqueues 2");
    rvm.ip("link add gone type veth peer name gone1");
    rvm.ip("address add 10.9.0.1/24 dev dev0");
    rvm.ip("link set dev0 up");
    rvm.ip("link set dev1 up");
    let names = [
        ("ADDRESS", "10.9.0.1"),
        ("ADDRESS/LENGTH", "10.9.0.5/24"),
        ("COUNT", "2"),
        ("DEV", "dev0"),
        ("FROM", "10.9.0.1"),
        ("GATEWAY", "10.9.0.2"),
        ("MTU", "1450"),
        ("NAME", "gone"),
        ("SIZE", "100"),
        ("TABLE", "100"),
        ("TO", "10.9.0.7"),
    ];
    let (mut tried, mut wrong) = (0, Vec::new());
    for line in LIST.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '-'])) {
        let words = line.split(' ').map(|word| match names.iter().find(|(stands, _)| *stands == word) {
            Some((_, name)) => (*name).to_owned(),
            None => word.replace(".DEV.", ".dev0."),
        });
        let words: Vec<String> = words.collect();
        let mut command = rvm.command(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        if words[0] == "ping" {
            command.args(["-c1", "-W5"]);
        }
        let output = command.output().unwrap_or_else(|e| panic!("{line}: {e}"));
        tried += 1;
        if !output.status.success() {
            wrong.push(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(tried > 12, "only {tried} commands were tried");
}
