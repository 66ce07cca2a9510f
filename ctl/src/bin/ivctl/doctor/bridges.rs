//! Checks whether frames in Linux bridges pass through iptables (`br_netfilter`), and whether a rule needs that.
//!
//! `br_netfilter` sends every bridged frame through the rules, which costs time. But a CMS may filter its guests with
//! rules that match the port of a bridge (`physdev`, as Neutron's Linux bridge agent writes them). Without
//! `br_netfilter`, those rules see no frames, and the security groups are open. So this check looks for such rules
//! first. Rules of ebtables, and of nftables' family `bridge`, see bridged frames either way.

use super::{Finding, Level, Machine, Said};

const CHECK: &str = "br_netfilter";

/// The commands that print rules, each used if installed. A machine may use both variants of iptables at the same
/// time.
const PRINTS: [(&str, &[&str]); 7] = [
    ("nft", &["list", "ruleset"]),
    ("iptables-save", &[]),
    ("iptables-nft-save", &[]),
    ("iptables-legacy-save", &[]),
    ("ip6tables-save", &[]),
    ("ip6tables-nft-save", &[]),
    ("ip6tables-legacy-save", &[]),
];

/// Chains of programs that recognise bridged traffic by its addresses, and therefore also need `br_netfilter`.
const CHAINS: [(&str, &str); 2] = [("KUBE-", "kube-proxy"), ("DOCKER", "Docker")];

/// The user of `br_netfilter`, as far as rules tell.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Need {
    /// This many rules match the port of a bridge.
    Ports(usize),
    /// A known program.
    Program(&'static str),
    /// The rules contain no user.
    Nothing,
    /// The rules could not be read.
    Unknown,
}

/// Checks `br_netfilter`.
pub fn netfilter(m: &Machine) -> Finding {
    let on = |key: &str| m.number(&format!("/proc/sys/net/bridge/{key}"));
    let keys = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];
    let (enabled, disabled): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| on(key) == Some(1));
    let set = |keys: &[&str], value: u8| {
        let list: Vec<String> = keys.iter().map(|key| format!("net.bridge.{key}={value}")).collect();
        format!("`sysctl -w {}`, and in /etc/sysctl.d", list.join(" "))
    };
    match (need(m), enabled.is_empty()) {
        (Need::Ports(count), _) if enabled.contains(&keys[0]) => {
            let others = if disabled.is_empty() { "" } else { " (of IPv4)" };
            let found = format!(
                "frames in Linux bridges pass through iptables{others}, and {} there filter by the port of a bridge \
                 (physdev): leave it on",
                rules(count)
            );
            Finding::ok(CHECK, found)
        }
        (Need::Ports(count), _) => Finding::new(
            CHECK,
            Level::Warn,
            format!(
                "{} filter by the port of a Linux bridge (physdev), but frames in bridges do not pass through \
                 iptables: security groups made of them are open",
                rules(count)
            ),
            format!("`modprobe br_netfilter`; {}", set(&keys, 1)),
        ),
        (_, true) => Finding::ok(CHECK, "frames in Linux bridges do not pass through iptables"),
        (Need::Program(who), false) => Finding::ok(
            CHECK,
            format!("frames in Linux bridges pass through iptables, and {who} needs that: leave it on"),
        ),
        (Need::Nothing, false) => Finding::new(
            CHECK,
            Level::Note,
            "frames in Linux bridges pass through iptables, and no rule there filters by the port of a bridge (physdev)",
            format!("if the CMS will not create any: {}", set(&enabled, 0)),
        ),
        (Need::Unknown, false) => Finding::new(
            CHECK,
            Level::Note,
            "frames in Linux bridges pass through iptables; it cannot be seen whether a rule needs that",
            "run `ivctl doctor` as root",
        ),
    }
}

fn rules(count: usize) -> String {
    if count == 1 { "one rule".to_owned() } else { format!("{count} rules") }
}

fn need(m: &Machine) -> Need {
    let said: Vec<Said> = PRINTS.iter().map(|(program, arguments)| m.says(program, arguments)).collect();
    let texts: Vec<&str> = said
        .iter()
        .filter_map(|said| match said {
            Said::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    // Several programs may print the same rule, so take the maximum.
    let count = |text: &&str| text.lines().filter(|line| line.contains("physdev")).count();
    let ports = texts.iter().map(count).max().unwrap_or(0);
    if ports > 0 {
        return Need::Ports(ports);
    }
    let is_there = |prefix: &str| {
        let chain = |line: &str| {
            let line = line.trim_start();
            line.starts_with(&format!(":{prefix}")) || line.starts_with(&format!("chain {prefix}"))
        };
        texts.iter().any(|text| text.lines().any(chain))
    };
    if let Some((_, who)) = CHAINS.iter().find(|(prefix, _)| is_there(prefix)) {
        return Need::Program(who);
    }
    if said.contains(&Said::Refused) || texts.is_empty() { Need::Unknown } else { Need::Nothing }
}

#[cfg(test)]
mod tests {
    use super::super::checks::tests::made;
    use super::*;

    const ON: (&str, &str) = ("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
    const ON6: (&str, &str) = ("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "1");
    const OFF: (&str, &str) = ("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
    /// The rules of Neutron's Linux bridge agent.
    const NEUTRON: (&str, &str) = (
        "/said/iptables-save",
        "*filter\n:neutron-linuxbri-FORWARD - [0:0]\n\
         -A neutron-linuxbri-FORWARD -m physdev --physdev-out tap1 --physdev-is-bridged -j neutron-linuxbri-sg-chain\n\
         -A neutron-linuxbri-FORWARD -m physdev --physdev-in tap1 --physdev-is-bridged -j neutron-linuxbri-sg-chain\n",
    );
    const NONE: (&str, &str) = ("/said/iptables-save", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT");

    /// Security groups depend on it: the report does not advise anything that would open them.
    #[test]
    fn rules_that_need_it_are_left_alone() {
        for files in [&[ON, NEUTRON][..], &[ON, ON6, NEUTRON]] {
            let (_dir, m) = made(files);
            let finding = netfilter(&m);
            assert_eq!((finding.level, finding.remedy.as_str()), (Level::Ok, ""), "{finding:?}");
            assert!(finding.found.contains("2 rules"), "{finding:?}");
        }
        // The same rules as nft prints them.
        let (_dir, m) = made(&[ON, ("/said/nft", "table ip filter {\n\t\txt match \"physdev\" counter\n}")]);
        assert!(netfilter(&m).found.contains("one rule"));
    }

    /// Rules that see no frames are worse than no rules.
    #[test]
    fn rules_without_it_are_a_warning() {
        for files in [&[OFF, NEUTRON][..], &[NEUTRON]] {
            let (_dir, m) = made(files);
            let finding = netfilter(&m);
            assert_eq!(finding.level, Level::Warn, "{finding:?}");
            assert!(finding.remedy.contains("net.bridge.bridge-nf-call-iptables=1"), "{finding:?}");
        }
    }

    #[test]
    fn without_such_rules_it_may_go() {
        let (_dir, m) = made(&[ON, ON6, NONE]);
        let finding = netfilter(&m);
        assert_eq!(finding.level, Level::Note);
        assert!(finding.remedy.contains("bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0"));
        // Filters that see bridged frames either way.
        let (_dir, m) = made(&[ON, NONE, ("/said/nft", "table bridge filter {\n\tchain forward {\n\t}\n}")]);
        assert!(netfilter(&m).remedy.contains("bridge-nf-call-iptables=0"));
        let (_dir, m) = made(&[ON, ("/said/iptables-save", "*nat\n:KUBE-SERVICES - [0:0]")]);
        assert_eq!(netfilter(&m).level, Level::Ok);
        assert!(netfilter(&m).found.contains("kube-proxy"));
    }

    /// If the rules cannot be read, the report gives no advice.
    #[test]
    fn what_cannot_be_seen_is_not_advised_on() {
        let (_dir, m) = made(&[ON]);
        let finding = netfilter(&m);
        assert_eq!((finding.level, finding.remedy.as_str()), (Level::Note, "run `ivctl doctor` as root"));
        let (_dir, m) = made(&[OFF]);
        assert_eq!(netfilter(&m).level, Level::Ok);
    }
}
