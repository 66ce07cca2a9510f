//! The commands that the book prints, run as they are printed. Upper-case words of a page stand for names; live views
//! are started and ended.

use std::process::{Command, Stdio};
use std::time::Duration;

use system::{Answer, Lab, Switch, binaries};

use crate::topology::{V4, host, network, port, underlay_pair};

/// Commands that go on until they are interrupted.
const LIVE: [&str; 3] = ["capture", "monitor", "top"];

fn page(name: &str) -> String {
    let path = format!("{}/../../packaging/book/src/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The commands for `ivctl` in a text, without the word itself. A command may be split over two lines of the text.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace('\n', " ");
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter_map(|span| span.strip_prefix("ivctl ")).map(str::to_owned).collect()
}

#[track_caller]
fn works(switch: &Switch, command: &str) -> Answer {
    let words: Vec<&str> = command.split_whitespace().collect();
    let live = words.iter().find(|word| !word.starts_with('-')).is_some_and(|verb| LIVE.contains(verb));
    if !live {
        let answer = switch.ivctl_args(&words);
        // 8: done, and something needs attention.
        assert!([0, 8].contains(&answer.code), "ivctl {command}: {answer:?}");
        return answer;
    }
    let mut ivctl = Command::new(binaries().join("ivctl"));
    ivctl.arg("--socket").arg(switch.socket()).args(&words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ivctl.spawn().expect("running ivctl");
    std::thread::sleep(Duration::from_millis(300));
    let ended = child.try_wait().expect("its state");
    let _ = child.kill();
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // `top` needs a terminal for its screen, and prints an error without one.
    let code = ended.and_then(|status| status.code()).unwrap_or(0);
    assert_eq!(code, 0, "ivctl {command}: {}", text(&output.stderr));
    Answer { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A user of Open vSwitch types the commands in the right column of the table.
#[test]
fn commands_for_those_who_come_from_ovs() {
    let Some(lab) = Lab::new() else { return };
    let rvm = lab.namespace("rvm");
    let _hosts = [host(&lab, &rvm, "p", &["10.1.0.1/24"]), host(&lab, &rvm, "ids", &["10.1.0.9/24"])];
    lab.veth((&rvm, "eth1"), (&rvm, "eth1-far"));
    let switch = Switch::start(
        &lab,
        &rvm,
        &(network("private", 100) + &port("p", "private") + &port("ids", "private")),
    );
    let file = lab.dir().join("new.toml");
    let text = switch.ivctl("config show").stdout;
    std::fs::write(&file, text + &network("third", 300)).expect("writing");

    let page = page("from-ovs.md");
    let table = page.split("## Commands").nth(1).expect("the table");
    let mut found = commands(table);
    assert!(found.len() > 15, "{found:?}");
    // Commands that delete run last, because others use the object.
    found.sort_by_key(|command| command.contains(" del ") || command.contains("FILE"));
    for (n, command) in found.iter().enumerate() {
        let command = command
            .replace("NAME", &format!("name-{n}"))
            .replace("--network NET", "--network private")
            .replace("--vni N", "--vni 500")
            .replace("--address A", "--address 10.0.0.99")
            .replace("FILE", file.to_str().expect("a name"));
        let command = if command == "trace" {
            "trace --from p --src 10.1.0.1 --src-mac 02:00:00:00:00:01 --to 10.1.0.9 arp".to_owned()
        } else {
            command
        };
        works(&switch, &command);
    }
    let shown = switch.json("config show");
    assert!(
        shown["network"].as_array().expect("networks").iter().any(|n| n["vni"] == 300),
        "the file was applied"
    );
}

/// The page about floating IPs: the rVM that it describes accepts its configuration, and its commands print the
/// output that it shows.
#[test]
fn commands_about_floating_ips() {
    let Some(lab) = Lab::new() else { return };
    let (rvm, _far) = underlay_pair(&lab, V4);
    let page = page("floating-ips.md");
    let block =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("its configuration");
    let door = "[[port]]\nname = \"eth2\"\nnetwork = \"public\"\n";
    let config =
        format!("name = \"rvm1\"\n[uplink]\ninterface = \"eth0\"\naddress = \"{}\"\n{block}{door}", V4.ours);
    assert_eq!(V4.ours, "10.0.0.11", "as on the page");
    let switch = Switch::start(&lab, &rvm, &config);
    switch.wait_live(&["uplink", "eth2"]);
    let found = commands(&page);
    assert!(found.len() >= 3, "{found:?}");
    for command in found {
        let said = works(&switch, &command).stdout;
        assert!(said.contains("56.0.0.11") || command == "doctor", "ivctl {command}: {said}");
    }
    // The other set-up that it describes, without a CMS.
    let inside =
        page.split('`').find(|span| span.starts_with("inside = ")).expect("the switch's own translation");
    let file = lab.dir().join("inside.toml");
    let block = block.replace("reality = ", &format!("{inside}\nreality = "));
    let own = format!("name = \"rvm1\"\n[uplink]\ninterface = \"eth0\"\n{block}{}", network("private", 100));
    std::fs::write(&file, own).expect("writing");
    works(&switch, &format!("config check {}", file.display()));
}
