//! The columns of OVS's tables that have an effect here, or are kept for clients to read. All others are refused.

/// Checks that a setting is supported. `column` is written with dashes.
///
/// # Errors
/// Names the setting that is not supported, and the command to use instead.
pub fn check(table: &str, column: &str, key: Option<&str>, value: &str) -> Result<(), String> {
    let full =
        key.map_or_else(|| column.replace('-', "_"), |key| format!("{}:{key}", column.replace('-', "_")));
    let refuse = |why: &str| Err(format!("{full}={value} of table {table} is not supported: {why}"));
    match (table, column, key) {
        (_, "external-ids", _) => Ok(()),
        ("bridge", "datapath-type", None) => match value {
            "" | "system" | "netdev" => Ok(()),
            _ => refuse("the switch is its own datapath"),
        },
        ("port", "tag" | "trunk" | "trunks" | "vlan-mode" | "qos", None) => Ok(()),
        (
            "interface",
            "mtu-request"
            | "ingress-policing-rate"
            | "ingress-policing-burst"
            | "ingress-policing-kpkts-rate",
            None,
        ) => match value {
            "" | "[]" => Ok(()),
            _ if value.parse::<u32>().is_ok() => Ok(()),
            _ => Err(format!("{full}={value}: a whole number is needed")),
        },
        ("interface", "ingress-policing-kpkts-burst", None) if matches!(value, "" | "0") => Ok(()),
        ("interface", "ingress-policing-kpkts-burst", None) => {
            refuse("a limit in packets has the burst that suits it; leave it out")
        }
        ("interface", "type", None) => match value {
            "" | "system" | "internal" | "dpdkvhostuserclient" => Ok(()),
            "dpdkvhostuser" => refuse("QEMU has to listen, and the switch connects: dpdkvhostuserclient"),
            "vxlan" | "geneve" | "gre" | "patch" => refuse("tunnels are the switch's own: `ivctl peer add`"),
            _ => refuse("interfaces are of type system, internal or dpdkvhostuserclient"),
        },
        ("interface", "options", Some("vhost-server-path")) => Ok(()),
        ("qos", "type", None) => match value {
            "linux-htb" | "linux-noop" | "noop" => Ok(()),
            _ => refuse("limits are of type linux-htb; `ivctl port set PORT --egress-bps BPS` sets them too"),
        },
        ("qos", "queues", Some("0")) => Ok(()),
        ("qos", "queues", _) => refuse("a port has one queue, number 0"),
        // A guaranteed minimum is always met, because a guest's port serves one guest only.
        ("qos" | "queue", "other-config", Some("min-rate" | "max-rate" | "burst")) => {
            value.parse::<u64>().map(|_| ()).map_err(|_| format!("{full}={value}: a whole number is needed"))
        }
        ("bridge", ..) => refuse("a bridge is a network: `ivctl network set --help` lists what it has"),
        ("port" | "interface", ..) => refuse("`ivctl port set --help` lists what a port has"),
        ("qos" | "queue", ..) => refuse("max-rate and burst limit a port"),
        _ => Err(format!("table {table} is not supported: there is no OVSDB here")),
    }
}

/// Checks that a column, or one of its keys, may be cleared.
///
/// # Errors
/// The same as those of [`check`].
pub fn check_gone(table: &str, column: &str) -> Result<(), String> {
    match (table, column) {
        ("interface", "type" | "options") => {
            Err(format!("{column} of table {table} cannot be cleared: del-port, then add-port"))
        }
        ("qos" | "queue", "other-config" | "queues") | (_, "external-ids") => Ok(()),
        _ => check(table, column, None, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Supported settings are accepted; all others, OVS's own and invented ones, are refused by name.
    #[test]
    fn nothing_is_accepted_and_not_done() {
        for (table, column, key, value) in [
            ("interface", "external-ids", Some("iface-id"), "x"),
            ("interface", "ingress-policing-rate", None, "8000"),
            ("interface", "mtu-request", None, "1400"),
            ("interface", "mtu-request", None, "[]"),
            ("interface", "type", None, "internal"),
            ("interface", "options", Some("vhost-server-path"), "/x"),
            ("port", "tag", None, "42"),
            ("port", "qos", None, "@q"),
            ("qos", "other-config", Some("max-rate"), "1000"),
            ("queue", "other-config", Some("min-rate"), "1000"),
            ("bridge", "datapath-type", None, "system"),
        ] {
            assert_eq!(check(table, column, key, value), Ok(()), "{table} {column}");
        }
        for (table, column, key, value) in [
            ("interface", "ingress-policing-rate", None, "fast"),
            ("interface", "ingress-policing-kpkts-burst", None, "5"),
            ("interface", "other-config", Some("x"), "1"),
            ("interface", "mac", None, "02:00:00:00:00:01"),
            ("interface", "ofport-request", None, "5"),
            ("interface", "type", None, "vxlan"),
            ("interface", "options", Some("remote_ip"), "10.0.0.1"),
            ("interface", "lldp", Some("enable"), "true"),
            ("port", "other-config", Some("transient"), "true"),
            ("port", "bond-mode", None, "active-backup"),
            ("port", "frob", None, "1"),
            ("qos", "type", None, "linux-hfsc"),
            ("qos", "queues", Some("1"), "@q1"),
            ("queue", "dscp", None, "4"),
            ("bridge", "fail-mode", None, "secure"),
            ("bridge", "stp-enable", None, "true"),
            ("open-vswitch", "other-config", Some("x"), "1"),
            ("mirror", "name", None, "m"),
        ] {
            let why = check(table, column, key, value).unwrap_err();
            assert!(why.contains(&column.replace('-', "_")) || why.contains(table), "{why}");
        }
        assert!(check_gone("port", "tag").is_ok() && check_gone("interface", "external-ids").is_ok());
        assert!(check_gone("port", "bond-mode").is_err() && check_gone("interface", "type").is_err());
    }
}
