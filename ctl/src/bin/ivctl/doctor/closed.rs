//! Checks whether the reality addresses of floating IPs are closed to the rVM's own kernel: see `ivswitchd --close`.

use ctl::api::{self, Status};
use ctl::model;
use ctl::reconcile;

use super::{Finding, Level, Machine, Said};

const CHECK: &str = "closed";

/// The state as the daemon reports it.
pub fn by_daemon(s: &Status) -> Finding {
    let row = &s.closed;
    let list = addresses(&row.addresses);
    match (row.addresses.is_empty(), row.in_place, row.restored) {
        (true, ..) => Finding::ok(CHECK, "no floating IP has its gateway here"),
        (_, true, _) if !row.instead.is_empty() => Finding::new(
            CHECK,
            Level::Note,
            format!(
                "the kernel does not answer for {list}, even when the daemon is away; but only by tc \
                 filters, which cannot exist before their interface does: {}",
                row.instead
            ),
            "remove the cause; the daemon tries again every 30 s",
        ),
        (_, true, 0) => {
            Finding::ok(CHECK, format!("the kernel does not answer for {list}, even when the daemon is away"))
        }
        (_, true, times) => Finding::new(
            CHECK,
            Level::Warn,
            format!(
                "the kernel does not answer for {list}, but another program removed the rule {times} times, \
                 and the daemon restored it: while the daemon is away, it stays removed"
            ),
            "find the program that runs `nft flush ruleset` (`nft monitor` shows it), and make it leave the table inet \
             ivswitch alone",
        ),
        (_, false, _) => Finding::new(
            CHECK,
            Level::Warn,
            format!("when the daemon is away, the kernel answers for {list}: {}", row.why),
            "remove the cause, then `systemctl reload ivswitchd`, or `ivswitchd --close`",
        ),
    }
}

/// The state according to the files and the kernel's rules. `None` means that there is nothing to close, as far as
/// this check can see.
pub fn without_daemon(m: &Machine) -> Option<Finding> {
    let config = m.path(api::CONFIG);
    let name = model::name_of_host(&m.text("/proc/sys/kernel/hostname").unwrap_or_default());
    let (text, drop_ins) = model::read_files(&config).ok()?;
    let whole = model::parse_layers(&text?, &drop_ins, Some(&name)).ok()?.whole;
    let name = whole.name.clone().unwrap_or(name);
    let plan = reconcile::close(&whole, &name, None);
    if plan.reality.is_empty() {
        return None;
    }
    let list = addresses(&plan.reality.iter().map(|reality| reality.address).collect::<Vec<_>>());
    let text = m.says("nft", &["list", "table", "inet", "ivswitch"]);
    let missing = |text: &str| plan.reality.iter().any(|r| !text.contains(&format!(" {} :", r.address)));
    Some(match text {
        Said::Text(text) if !missing(&text) => {
            Finding::ok(CHECK, format!("the kernel does not answer for {list}"))
        }
        Said::Refused if !rustix::process::geteuid().is_root() => Finding::new(
            CHECK,
            Level::Note,
            format!("it cannot be seen whether the kernel answers for {list}"),
            "run `ivctl doctor` as root",
        ),
        Said::Missing => Finding::new(
            CHECK,
            Level::Fail,
            format!("the kernel answers for {list}: the program nft is missing"),
            "install the package nftables, then `ivswitchd --close`",
        ),
        _ => Finding::new(
            CHECK,
            Level::Fail,
            format!("the kernel answers for {list}, which the Internet reaches"),
            "`ivswitchd --close` closes them",
        ),
    })
}

fn addresses(list: &[std::net::IpAddr]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::checks::tests::made;
    use super::*;

    const CONFIG: (&str, &str) = (
        api::CONFIG,
        "name = \"rvm1\"\n[uplink]\ninterface = \"eth0\"\n[[network]]\nname = \"public\"\nvni = 200\ngateway = [\"10.2.0.1\"]\n\
         [[floating]]\nip = \"56.0.0.11\"\nnetwork = \"public\"\ngateway = \"rvm1\"\nreality = \"10.0.0.11\"\n",
    );

    /// While the daemon is away, the rule itself counts.
    #[test]
    fn without_the_daemon() {
        let table = ("/said/nft", "ip daddr vmap { 10.0.0.11 : goto closed0 }");
        let (_dir, m) = made(&[CONFIG, table]);
        assert_eq!(without_daemon(&m).unwrap().level, Level::Ok);
        for said in ["", "ip daddr vmap { 10.0.0.12 : goto closed0 }"] {
            let (_dir, m) = made(&[CONFIG, ("/said/nft", said)]);
            let finding = without_daemon(&m).unwrap();
            assert_eq!(
                (finding.level, finding.remedy.as_str()),
                (Level::Fail, "`ivswitchd --close` closes them")
            );
        }
        let (_dir, m) = made(&[CONFIG]);
        assert!(without_daemon(&m).unwrap().remedy.contains("nftables"));
        let (_dir, m) = made(&[]);
        assert_eq!(without_daemon(&m), None);
    }

    #[test]
    fn with_the_daemon() {
        let mut s = crate::tests::status();
        assert_eq!(by_daemon(&s).level, Level::Ok);
        s.closed.instead = "the program nft is missing".into();
        assert_eq!(by_daemon(&s).level, Level::Note);
        s.closed.instead.clear();
        s.closed.restored = 3;
        assert_eq!(by_daemon(&s).level, Level::Warn);
        (s.closed.in_place, s.closed.why) = (false, "nft: no".into());
        let finding = by_daemon(&s);
        assert!(finding.level == Level::Warn && finding.found.ends_with("10.0.0.11: nft: no"), "{finding:?}");
        s.closed.addresses.clear();
        assert_eq!(by_daemon(&s).level, Level::Ok);
    }
}
