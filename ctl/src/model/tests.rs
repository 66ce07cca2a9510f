use std::collections::BTreeSet;

use proptest::prelude::*;

use super::arbitrary::{config, messy_config};
use super::*;

/// The example of the documentation: an rVM on one screen, with every feature.
const WHOLE: &str = r#"
name = "rvm1"                        # default: host name
[uplink]
interface = "eth0"
address = "10.0.0.11"                # VTEP
port = 4789
checksum = false
xdp = "auto"
guard = ["10.0.0.0/16"]
[workers]
count = 2
cpus = [0, 1]
[[network]]
name = "private"
vni = 100
[[network]]
name = "public"
vni = 200
gateway = ["10.2.0.1"]
fdb_max = 8192
fdb_age = 300
[[port]]
name = "eth1"
network = "private"
[[port]]
name = "eth2"
network = "public"
address = ["10.2.0.12/16"]
[[port]]
name = "g1"
network = "private"
role = "guest"
interface = "p-h1"
mac = ["02:00:00:00:00:01"]
ip = ["192.168.1.2", "fd00::/64"]
vlan = { trunk = [10, 20], native = 1 }
bum_pps = 0
[[peer]]
name = "rvm2"
address = "10.0.0.12"
networks = ["private", "public"]
[[peer]]
name = "rvm3"
address = "10.0.0.13"
via = "rvm2"
[[floating]]
ip = "56.0.0.11"
network = "public"
gateway = "rvm1"
reality = "10.0.0.11"
[[floating]]
ip = "56.0.0.12"
network = "public"
gateway = "rvm2"
inside = { network = "private", address = "192.168.1.2" }
only = ["tcp/80", "tcp/443"]
[[route]]
network = "public"
from = "56.0.0.0/24"
via = "rvm2"
[[fdb]]
network = "private"
mac = "02:00:00:00:00:09"
peer = "rvm2"
"#;

#[test]
fn the_whole_example_is_read() {
    let c = parse(WHOLE).unwrap();
    assert_eq!((c.network.len(), c.port.len(), c.peer.len(), c.floating.len()), (2, 3, 2, 2));
    assert_eq!(c.uplink.as_ref().unwrap().guard.as_ref().unwrap().len(), 1);
    assert!(c.port("eth1").unwrap().makes_door());
    assert_eq!(c.port("eth1").unwrap().attached_to(), "eth1p");
    assert_eq!(c.port("g1").unwrap().attached_to(), "p-h1");
    assert_eq!(c.floating[0].except_effective(), [Ports::SSH]);
    assert_eq!(c.floating[1].except_effective(), []);
    assert_eq!(parse(&print(&c)).unwrap(), c);
}

#[test]
fn nothing_is_a_configuration_too() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(print(&Config::default()), "");
}

/// A short valid configuration, to which each test adds an error.
const BASE: &str = r#"
name = "rvm1"
[uplink]
interface = "eth0"
address = "10.0.0.11"
[[network]]
name = "private"
vni = 100
[[network]]
name = "public"
vni = 200
[[port]]
name = "eth1"
network = "private"
[[peer]]
name = "rvm2"
address = "10.0.0.12"
[[peer]]
name = "rvm3"
address = "10.0.0.13"
networks = ["public"]
"#;

const NET: &str = "[[network]]\nname = \"n\"\nvni = 7\n";
const PORT: &str = "[[port]]\nname = \"p\"\nnetwork = \"public\"\n";
const PEER: &str = "[[peer]]\nname = \"r\"\naddress = \"10.0.0.20\"\n";
const FIP: &str = "[[floating]]\nip = \"56.0.0.1\"\nnetwork = \"public\"\ngateway = \"rvm2\"\n";
const HERE: &str = "[[floating]]\nip = \"56.0.0.1\"\nnetwork = \"public\"\ngateway = \"rvm1\"\n";
const ELSEWHERE: &str = "[[floating]]\nip = \"56.0.0.1\"\nnetwork = \"public\"\ngateway = \"rvm9\"\n";
const FDB: &str = "[[fdb]]\nnetwork = \"private\"\nmac = \"02:00:00:00:00:01\"\n";

use Fault::{Conflict, Invalid, NotFound, Syntax};

/// The text to append to [`BASE`]; the kind of error, the object, words of the cause, words of the remedy.
type Bad<'t> = (&'t [&'t str], Fault, &'t str, &'t str, &'t str);

const BAD: &[Bad] = &[
    // Syntax: text that is not TOML, wrong types, unknown and missing keys.
    (&["[[network"], Syntax, "configuration", "", "correct the TOML"),
    (&["x = 1"], Syntax, "peer \"rvm3\"", "no key `x`", "use one of"),
    (&["[uplinc]\ninterface = \"eth1\""], Syntax, "configuration", "`uplinc`", "did you mean `uplink`?"),
    (&["[floating]\nip = \"56.0.0.1\""], Syntax, "floating", "not a list", "[[floating]]"),
    (&[NET, "nvi = 3"], Syntax, "network \"n\"", "`nvi`", "did you mean `vni`?"),
    (&["[[network]]\nname = \"n\""], Syntax, "network \"n\"", "`vni` is missing", "add a line `vni"),
    (&["[[network]]\nname = \"n\"\nvni = \"7\""], Syntax, "network \"n\"", "string", "whole number"),
    (&["[[network]]\nname = \"n\"\nvni = -1"], Syntax, "network \"n\"", "-1", "whole number"),
    (&["[[network]]\nname = 5\nvni = 1"], Syntax, "network", "5", "text in quotes"),
    (&["[[port]]\nname = \"p\""], Syntax, "port \"p\"", "`network` is missing", "add a line `network"),
    (&[PORT, "role = \"guset\""], Syntax, "port \"p\"", "`guset`", "did you mean `guest`?"),
    (&[PORT, "mac = [\"02:00\"]"], Syntax, "port \"p\"", "six hexadecimal octets", "correct the value"),
    (&[PORT, "mtu = 70000"], Syntax, "port \"p\"", "70000", "0 to 65535"),
    (&[PORT, "xdp = \"fast\""], Syntax, "port \"p\"", "`fast`", "use one of: auto, native, copy, generic"),
    (
        &[PORT, "kind = \"sockets\""],
        Syntax,
        "port \"p\"",
        "`sockets`",
        "use one of: auto, afxdp, packet, tap",
    ),
    (&[PORT, "kind = \"tap\"\ninterface = \"v\""], Invalid, "port \"p\"", "its own interface", "\"packet\""),
    (&[PORT, "kind = \"packet\"\nxdp = \"copy\""], Invalid, "port \"p\"", "a mode of AF_XDP", "remove `xdp`"),
    (&[PORT, "enabled = 1"], Syntax, "port \"p\"", "integer", "true or false"),
    (&[PORT, "vlan = { acess = 4 }"], Syntax, "port \"p\"", "`acess`", "did you mean `access`?"),
    (&["[[peer]]\nname = \"r\"\naddress = \"10.0.0.300\""], Syntax, "peer \"r\"", "10.0.0.300", "10.0.0.11"),
    (&[FIP, "only = [\"sctp/5\"]"], Syntax, "floating 56.0.0.1", "tcp/80", "correct the value"),
    (
        &[FIP, "except = [\"tcp/9-3\"]"],
        Syntax,
        "floating 56.0.0.1",
        "ends before it begins",
        "correct the value",
    ),
    (
        &["[[route]]\nnetwork = \"public\"\nfrom = \"56\"\nvia = \"rvm2\""],
        Syntax,
        "route 56",
        "\"56\"",
        "/length",
    ),
    (&["[[network]]\nname = \"a\"\nname = \"b\"\nvni = 3"], Syntax, "configuration", "duplicate key", "TOML"),
    // Names.
    (&["[[network]]\nname = \"\"\nvni = 3"], Invalid, "network \"\"", "empty", "lower-case"),
    (&["[[network]]\nname = \"Net\"\nvni = 3"], Invalid, "network \"Net\"", "begin", "lower-case"),
    (&["[[network]]\nname = \"a b\"\nvni = 3"], Invalid, "network \"a b\"", "' '", "lower-case"),
    (
        &["[[network]]\nname = \"a\\u0007\"\nvni = 3"],
        Invalid,
        "network \"a\\u{7}\"",
        "'\\u{7}'",
        "lower-case",
    ),
    (&["[[network]]\nname = \"a234567890123456\"\nvni = 3"], Invalid, "network", "16 bytes", "at most 15"),
    (&["[[port]]\nname = \"../x\"\nnetwork = \"public\""], Invalid, "port \"../x\"", "begin", "lower-case"),
    (
        &["[[port]]\nname = \"uplink\"\nnetwork = \"public\""],
        Conflict,
        "port \"uplink\"",
        "reserved",
        "another name",
    ),
    (
        &["[[port]]\nname = \"a23456789012345\"\nnetwork = \"public\""],
        Invalid,
        "port",
        "our end",
        "14 characters",
    ),
    (
        &["[[peer]]\nname = \"rvm1\"\naddress = \"10.0.0.9\""],
        Conflict,
        "peer \"rvm1\"",
        "this rVM",
        "set `name`",
    ),
    // Workers.
    (&["[workers]\ncount = 0"], Invalid, "workers", "count 0", "\"auto\""),
    (&["[workers]\ncount = 65"], Invalid, "workers", "count 65", "1 to 64"),
    (&["[workers]\ncount = \"all\""], Syntax, "workers", "from 1 to 64", ""),
    (&["[workers]\ncpus = [0, 0]"], Conflict, "workers", "core 0 is named twice", "remove one"),
    (&["[workers]\ncpus = [4096]"], Invalid, "workers", "no core 4096", "from 0"),
    // Networks.
    (&["[[network]]\nname = \"n\"\nvni = 0"], Invalid, "network \"n\"", "vni 0", "1 to 16777215"),
    (&["[[network]]\nname = \"n\"\nvni = 16777216"], Invalid, "network \"n\"", "16777216", "1 to 16777215"),
    (
        &["[[network]]\nname = \"n\"\nvni = 100"],
        Conflict,
        "network \"n\"",
        "network \"private\"",
        "its own VNI",
    ),
    (
        &["[[network]]\nname = \"public\"\nvni = 3"],
        Conflict,
        "network \"public\"",
        "this name",
        "its own name",
    ),
    (&[NET, "fdb_age = 0"], Invalid, "network \"n\"", "as a hub does", "such as 300"),
    (&[NET, "fdb_age = 1000001"], Invalid, "network \"n\"", "fdb_age 1000001", "1 to 1000000"),
    (&[NET, "fdb_max = 0"], Invalid, "network \"n\"", "fdb_max 0", "use 1 to"),
    (&[NET, "fdb_max = 4000000"], Invalid, "network \"n\"", "fdb_max", "use 1 to"),
    (&[NET, "gateway = [\"224.0.0.1\"]"], Invalid, "network \"n\"", "multicast", "address of a host"),
    (&[NET, "gateway = [\"10.1.0.1\", \"10.1.0.1\"]"], Conflict, "network \"n\"", "twice", "remove one"),
    (&[NET, "router_mac = \"01:00:00:00:00:01\""], Invalid, "network \"n\"", "router_mac", "unicast"),
    // Ports.
    (&["[[port]]\nname = \"p\"\nnetwork = \"privat\""], NotFound, "port \"p\"", "\"privat\"", "`private`?"),
    (
        &["[[port]]\nname = \"eth1\"\nnetwork = \"public\""],
        Conflict,
        "port \"eth1\"",
        "this name",
        "its own name",
    ),
    (&[PORT, "interface = \"eth0\""], Conflict, "port \"p\"", "belongs to uplink", "name another"),
    (&[PORT, "interface = \"eth1p\""], Conflict, "port \"p\"", "belongs to port \"eth1\"", "name another"),
    (
        &["[[port]]\nname = \"eth1p\"\nnetwork = \"public\""],
        Conflict,
        "port \"eth1p\"",
        "eth1p",
        "name another",
    ),
    (&[PORT, "interface = \"a/b\""], Invalid, "port \"p\"", "\"a/b\"", "ip link"),
    (&[PORT, "interface = \"\""], Invalid, "port \"p\"", "cannot be the name", "ip link"),
    (&[PORT, "interface = \"v\"\naddress = [\"10.0.0.1/8\"]"], Invalid, "port \"p\"", "`address`", "remove"),
    (&[PORT, "role = \"guest\"\ninterface = \"v\""], Invalid, "port \"p\"", "no `mac`", "add `mac = "),
    (
        &[PORT, "role = \"guest\"\nmac = [\"02:00:00:00:00:01\"]"],
        Invalid,
        "port \"p\"",
        "`interface`",
        "add `interface = ",
    ),
    (&[PORT, "mac = [\"02:00:00:00:00:01\"]"], Invalid, "port \"p\"", "this is a door", "role = \"guest\""),
    (
        &[PORT, "role = \"guest\"\ninterface = \"v\"\nmac = [\"ff:ff:ff:ff:ff:ff\"]"],
        Invalid,
        "port \"p\"",
        "ff:ff:ff:ff:ff:ff",
        "own MAC",
    ),
    (&[PORT, "address = [\"0.0.0.0/0\"]"], Invalid, "port \"p\"", "unspecified", "address of a host"),
    (&[PORT, "mtu = 500"], Invalid, "port \"p\"", "mtu 500", "576 to 9216"),
    (&[PORT, "mtu = 9217"], Invalid, "port \"p\"", "mtu 9217", "576 to 9216"),
    (&[PORT, "fdb_max = 0"], Invalid, "port \"p\"", "fdb_max 0", "use 1 to"),
    (&[PORT, "vlan = {}"], Invalid, "port \"p\"", "neither", "access = 10"),
    (&[PORT, "vlan = { access = 0 }"], Invalid, "port \"p\"", "VLAN 0", "1 to 4094"),
    (&[PORT, "vlan = { access = 4095 }"], Invalid, "port \"p\"", "VLAN 4095", "1 to 4094"),
    (&[PORT, "vlan = { access = 1, trunk = [2] }"], Invalid, "port \"p\"", "both", "keep one"),
    (&[PORT, "vlan = { access = 1, native = 2 }"], Invalid, "port \"p\"", "`native`", "remove `native`"),
    (&[PORT, "vlan = { trunk = [] }"], Invalid, "port \"p\"", "no VLAN", "list the VLANs"),
    (&[PORT, "vlan = { trunk = [5, 5] }"], Conflict, "port \"p\"", "twice", "keep each once"),
    (&[PORT, "vlan = { trunk = [5], native = 5 }"], Conflict, "port \"p\"", "both tagged", "out of `trunk`"),
    // Peers.
    (
        &["[[peer]]\nname = \"r\"\naddress = \"10.0.0.12\""],
        Conflict,
        "peer \"r\"",
        "\"rvm2\"'s",
        "its own VTEP",
    ),
    (
        &["[[peer]]\nname = \"r\"\naddress = \"10.0.0.11\""],
        Conflict,
        "peer \"r\"",
        "this rVM's own",
        "other rVM",
    ),
    (
        &["[[peer]]\nname = \"r\"\naddress = \"fd00::1\""],
        Invalid,
        "peer \"r\"",
        "another family",
        "one address family",
    ),
    (
        &["[[peer]]\nname = \"r\"\naddress = \"127.0.0.1\""],
        Invalid,
        "peer \"r\"",
        "loopback",
        "address of a host",
    ),
    (
        &["[[peer]]\nname = \"rvm2\"\naddress = \"10.0.0.9\""],
        Conflict,
        "peer \"rvm2\"",
        "this name",
        "its own name",
    ),
    (&[PEER, "networks = [\"nix\"]"], NotFound, "peer \"r\"", "\"nix\"", "add the network"),
    (&[PEER, "networks = [\"public\", \"public\"]"], Conflict, "peer \"r\"", "twice", "once"),
    (&[PEER, "mtu = 100"], Invalid, "peer \"r\"", "mtu 100", "576 to 9216"),
    (&[PEER, "via = \"nix\""], NotFound, "peer \"r\"", "\"nix\"", "add the peer"),
    (&[PEER, "via = \"r\""], Invalid, "peer \"r\"", "itself", "remove `via`"),
    (&[PEER, "via = \"rvm2\"\nrelay = true"], Invalid, "peer \"r\"", "contradict", "remove one"),
    (
        &[PEER, "via = \"s\"\n[[peer]]\nname = \"s\"\naddress = \"10.0.0.21\"\nvia = \"r\""],
        Invalid,
        "peer \"r\"",
        "loop",
        "directly",
    ),
    (
        &[PEER, "via = \"s\"\n[[peer]]\nname = \"s\"\naddress = \"10.0.0.21\"\nvia = \"rvm2\""],
        Invalid,
        "peer \"r\"",
        "itself reached via",
        "via = \"rvm2\"",
    ),
    // Floating IPs.
    (&[HERE], Invalid, "floating 56.0.0.1", "`reality` is missing", "add `reality = "),
    (&[HERE, "reality = \"fd00::5\""], Invalid, "floating 56.0.0.1", "address family", "both IPv4"),
    (&[HERE, "reality = \"0.0.0.0\""], Invalid, "floating 56.0.0.1", "unspecified", "address of a host"),
    (&[ELSEWHERE], NotFound, "floating 56.0.0.1", "neither this rVM nor a peer", "add the peer"),
    (
        &[FIP, "inside = { network = \"nix\", address = \"192.168.0.1\" }"],
        NotFound,
        "floating",
        "\"nix\"",
        "add the network",
    ),
    (
        &[FIP, "inside = { network = \"private\", address = \"fd00::1\" }"],
        Invalid,
        "floating",
        "inside",
        "both IPv4",
    ),
    (
        &[FIP, "only = [\"tcp/22\"]\nexcept = [\"tcp/1-100\"]"],
        Invalid,
        "floating",
        "excludes everything",
        "remove",
    ),
    (&[FIP, FIP], Conflict, "floating 56.0.0.1", "same floating IP takes everything", "`only` ports"),
    (
        &[FIP, "only = [\"tcp/80\"]\n", FIP, "only = [\"tcp/70-90\"]"],
        Conflict,
        "floating",
        "tcp/80",
        "`only` ports",
    ),
    (&[FIP, FIP, "only = [\"udp/53\"]"], Conflict, "floating", "udp/53", "`only` ports"),
    (
        &[
            HERE,
            "reality = \"10.0.0.11\"\n[[floating]]\nip = \"56.0.0.2\"\nnetwork = \"public\"\ngateway = \"rvm1\"\nreality = \"10.0.0.11\"",
        ],
        Conflict,
        "floating 56.0.0.2",
        "same reality",
        "`only` ports",
    ),
    (
        &[
            FIP,
            "inside = { network = \"private\", address = \"10.9.0.1\" }\n",
            "[[floating]]\nip = \"56.0.0.2\"\nnetwork = \"public\"\ngateway = \"rvm2\"\n",
            "inside = { network = \"private\", address = \"10.9.0.1\" }",
        ],
        Conflict,
        "floating 56.0.0.2",
        "same inside",
        "`only` ports",
    ),
    // Routes.
    (
        &["[[route]]\nnetwork = \"public\"\nfrom = \"56.0.0.1/24\"\nvia = \"rvm2\""],
        Invalid,
        "route 56.0.0.1/24",
        "bits set",
        "write 56.0.0.0/24",
    ),
    (
        &["[[route]]\nnetwork = \"public\"\nfrom = \"56.0.0.0/24\"\nvia = \"rvm1\""],
        Invalid,
        "route",
        "itself",
        "name a peer",
    ),
    (
        &["[[route]]\nnetwork = \"public\"\nfrom = \"56.0.0.0/24\"\nvia = \"nix\""],
        NotFound,
        "route",
        "\"nix\"",
        "add the peer",
    ),
    (
        &["[[route]]\nnetwork = \"public\"\nfrom = \"56.0.0.0/24\"\nvia = \"fd00::1\""],
        Invalid,
        "route",
        "address family",
        "both IPv4",
    ),
    (
        &["[[route]]\nnetwork = \"nix\"\nfrom = \"56.0.0.0/24\"\nvia = \"rvm2\""],
        NotFound,
        "route",
        "\"nix\"",
        "add the network",
    ),
    (
        &[
            "[[route]]\nnetwork = \"public\"\nfrom = \"56.0.0.0/24\"\nvia = \"rvm2\"\n[[route]]\nnetwork = \"public\"\nfrom = \"56.0.0.0/24\"\nvia = \"rvm3\"",
        ],
        Conflict,
        "route 56.0.0.0/24",
        "already",
        "keep one",
    ),
    // Static FDB entries.
    (&[FDB], Invalid, "fdb 02:00:00:00:00:01", "either `peer` or `port`", "where the MAC is"),
    (&[FDB, "peer = \"rvm2\"\nport = \"eth1\""], Invalid, "fdb", "either `peer` or `port`", "one of them"),
    (&[FDB, "peer = \"nix\""], NotFound, "fdb", "\"nix\"", "add the peer"),
    (&[FDB, "port = \"eth9\""], NotFound, "fdb", "\"eth9\"", "`eth1`?"),
    (&[FDB, "peer = \"rvm3\""], Invalid, "fdb", "does not take part", "`networks`"),
    (&[PORT, FDB, "port = \"p\""], Invalid, "fdb", "on network \"public\"", "own network"),
    (&[FDB, "peer = \"rvm2\"\nvlan = 4095"], Invalid, "fdb", "VLAN 4095", "1 to 4094"),
    (&[FDB, "peer = \"rvm2\"\n", FDB, "port = \"eth1\""], Conflict, "fdb", "already", "keep one"),
    (
        &["[[fdb]]\nnetwork = \"private\"\nmac = \"ff:ff:ff:ff:ff:ff\"\npeer = \"rvm2\""],
        Invalid,
        "fdb",
        "station",
        "unicast",
    ),
];

/// Every error is found, alone, with its object, cause and remedy.
#[test]
fn mistakes_name_object_cause_and_remedy() {
    parse(BASE).unwrap();
    for (added, fault, object, cause, remedy) in BAD {
        let text = format!("{BASE}{}", added.concat());
        let errors = parse(&text).expect_err(&text);
        let found = errors.iter().any(|e| {
            e.fault == *fault
                && e.object.contains(object)
                && e.cause.contains(cause)
                && e.remedy.contains(remedy)
        });
        assert!(found, "{text}\nexpected {fault:?} {object} {cause} {remedy}, got {errors:#?}");
        assert!(errors.iter().all(|e| e.position.is_some()), "{text}\n{errors:#?}");
        let line = errors[0].position.unwrap().0;
        assert!(line >= 14, "the mistake is in what was added: line {line}\n{text}");
    }
    assert!(BAD.len() >= 60);
}

#[test]
fn mistakes_of_the_uplink() {
    for (text, fault, cause) in [
        ("[uplink]", Syntax, "`interface` is missing"),
        ("[uplink]\ninterface = \"a b\"", Invalid, "a b"),
        ("[uplink]\ninterface = \"e\"\nport = 0", Invalid, "port 0"),
        ("[uplink]\ninterface = \"e\"\nport = 65536", Syntax, "65536"),
        ("[uplink]\ninterface = \"e\"\naddress = \"224.0.0.1\"", Invalid, "multicast"),
        ("[uplink]\ninterface = \"e\"\naddress = \"x\"", Syntax, "not an IP address"),
        ("[uplink]\ninterface = \"e\"\nguard = [\"10.0.0.0/33\"]", Syntax, "10.0.0.0/33"),
        ("[uplink]\ninterface = \"e\"\nkind = \"tap\"", Syntax, "`tap`"),
        ("[uplink]\ninterface = \"e\"\nkind = \"udp\"\nxdp = \"copy\"", Invalid, "a mode of AF_XDP"),
        ("[uplink]\ninterface = \"e\"\nkind = \"udp\"\nfragment = true", Conflict, "sends no fragments"),
        ("[uplink]\ninterface = \"e\"\nkind = \"udp\"\ntos = \"inherit\"", Conflict, "to the kernel"),
        ("[uplink]\ninterface = \"e\"\nttl = 0", Invalid, "`ttl` 0"),
        ("[uplink]\ninterface = \"e\"\ntos = 3", Invalid, "bits of ECN"),
        ("[uplink]\ninterface = \"e\"\nreserved_bits = \"0xff00000000000000\"", Invalid, "the I flag's"),
        ("[[peer]]\nname = \"p\"\naddress = \"10.0.0.9\"\nttl = 0", Invalid, "`ttl` 0"),
        (
            "[uplink]\ninterface = \"e\"\nkind = \"udp\"\n[[peer]]\nname = \"p\"\naddress = \"10.0.0.9\"\nfragment = true",
            Conflict,
            "sends no fragments",
        ),
        (
            "name = \"a\"\n[uplink]\ninterface = \"e\"\nkind = \"udp\"\n[[network]]\nname = \"n\"\nvni = 1\n[[floating]]\n\
             ip = \"56.0.0.1\"\nnetwork = \"n\"\ngateway = \"a\"\nreality = \"10.0.0.1\"",
            Conflict,
            "tunnel packets only",
        ),
        ("name = \"R V M\"", Invalid, "begin"),
        ("name = 5", Syntax, "5"),
        (
            "name = \"a\"\n[[network]]\nname = \"n\"\nvni = 1\n[[floating]]\nip = \"56.0.0.1\"\n\
             network = \"n\"\ngateway = \"a\"\nreality = \"10.0.0.1\"",
            NotFound,
            "no [uplink]",
        ),
    ] {
        let errors = parse(text).expect_err(text);
        assert!(errors.iter().any(|e| e.fault == fault && e.cause.contains(cause)), "{text}\n{errors:#?}");
    }
}

/// One broken object neither hides the errors of others, nor makes references to itself look wrong.
#[test]
fn all_mistakes_are_found_at_once() {
    let text = "[[network]]\nname = \"a\"\nvni = \"x\"\n[[port]]\nname = \"p\"\nnetwork = \"a\"\nmtu = 1\n\
                [[port]]\nname = \"q\"\nnetwork = \"a\"\nfoo = 1\n[[peer]]\nname = \"r\"\naddress = \"10.0.0.1\"\nvia = \"s\"\n";
    let errors = parse(text).unwrap_err();
    let lines: Vec<_> = errors.iter().map(|e| (e.position.unwrap().0, e.object.as_str())).collect();
    assert_eq!(
        lines,
        [(3, "network \"a\""), (4, "port \"p\""), (11, "port \"q\""), (12, "peer \"r\"")],
        "{errors:#?}"
    );
}

#[test]
fn limits_hold() {
    let mut c = Config::default();
    c.network.push(Network::new("n", 1));
    for i in 0..engine::limits::PORTS_MAX {
        c.port.push(Port::new(format!("p{i}"), "n"));
    }
    let errors = validate(&c, None).unwrap_err();
    assert_eq!((errors.len(), errors[0].cause.as_str()), (1, "there are 1025, more than 1024"));
    c.port.pop();
    validate(&c, None).unwrap();
    let many = "x = 1\n".repeat(3);
    assert!(parse(&many).is_err());
    assert!(parse(&"#".repeat(TEXT_LEN_MAX + 1)).unwrap_err()[0].cause.contains("bytes"));
}

/// Deep nesting, the classic way to exhaust a parser's stack.
#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("name = {}{}", open.repeat(100_000), close.repeat(100_000));
        assert!(parse(&text).is_err());
    }
}

#[test]
fn a_gateway_without_a_peer_is_this_rvm_when_nothing_else_is_known() {
    let text = BASE.replace("name = \"rvm1\"", "") + HERE + "reality = \"10.0.0.11\"";
    parse(&text).unwrap();
    parse_as(&text, Some("rvm1")).unwrap();
    assert_eq!(parse_as(&text, Some("rvm7")).unwrap_err()[0].fault, NotFound);
}

/// An edit leaves the operator's comments, order and explicit defaults where they are.
#[test]
fn comments_survive_edits() {
    let mut c = parse(WHOLE).unwrap();
    c.port[2].mtu = Some(1400);
    c.port[2].ip.pop();
    c.port.remove(0);
    c.network.push(Network::new("third", 300));
    c.uplink.as_mut().unwrap().checksum = true;
    let text = rewrite(WHOLE, &c);
    assert_eq!(parse(&text).unwrap(), c);
    for kept in ["# default: host name", "# VTEP", "port = 4789", "fdb_max = 8192", "checksum = true"] {
        assert!(text.contains(kept), "{kept}\n{text}");
    }
    let lines = |t: &str| t.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (lines(WHOLE), lines(&text));
    assert_eq!(before.difference(&after).count(), 3, "checksum, ip, the name of eth1\n{text}");
    // Text that is not TOML is replaced.
    assert_eq!(parse(&rewrite("[[[", &c)).unwrap(), c);
}

#[test]
fn host_names_become_names() {
    for (host, name) in [
        ("rvm1", "rvm1"),
        ("Web-1.example.com", "web-1.example.com"),
        ("_x y", "x-y"),
        ("", "rvm"),
        ("\u{7f}", "rvm"),
    ] {
        assert_eq!(name_of_host(host), name);
    }
    assert_eq!(name_of_host(&"a".repeat(100)).len(), 63);
}

proptest! {
    /// Printing and parsing give the same configuration back.
    #[test]
    fn parse_print_is_the_identity(c in config()) {
        let text = print(&c);
        prop_assert_eq!(parse_as(&text, Some("me")).map_err(|e| format!("{e:?}\n{text}")).unwrap(), c.clone());
        prop_assert_eq!(print(&c), text, "deterministic");
    }

    /// Edits of the text lead from any configuration to any other.
    #[test]
    fn rewriting_says_the_new_configuration(a in config(), b in config()) {
        let text = rewrite(&print(&a), &b);
        prop_assert_eq!(toml::from_str::<Config>(&text).unwrap(), b);
    }

    /// Validation never panics, and its errors have all their parts.
    #[test]
    fn errors_are_whole(c in messy_config()) {
        if let Err(errors) = validate(&c, Some("me")) {
            for e in errors {
                prop_assert!(!e.object.is_empty() && !e.cause.is_empty() && !e.remedy.is_empty());
                prop_assert!(!e.to_string().chars().any(char::is_control));
            }
        }
    }

    /// Any text gets an answer, without a panic.
    #[test]
    fn any_text_is_answered(text in "\\PC*") {
        let _ = parse(&text);
    }

    /// The whole example with a few characters changed.
    #[test]
    fn damaged_text_is_answered(damage in prop::collection::vec((0..WHOLE.len(), any::<char>()), 1..8)) {
        let mut chars: Vec<char> = WHOLE.chars().collect();
        for (at, c) in damage {
            chars[at] = c;
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.is_empty());
            for e in errors {
                prop_assert!(!e.to_string().chars().any(char::is_control), "{e}");
            }
        }
    }

    /// Lines of TOML in any order: sections, keys and values that fit and that do not.
    #[test]
    fn shuffled_lines_are_answered(picks in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let lines: Vec<&str> = WHOLE.lines().collect();
        let text: Vec<&str> = picks.iter().map(|i| lines[i.index(lines.len())]).collect();
        let _ = parse(&text.join("\n"));
    }
}
