//! The switch accepts the configurations that our packaged examples would write to `/etc/ivswitch/ivswitch.toml`.

use ctl::model;

/// The block after `content: |`, without its indentation.
fn content(example: &str) -> String {
    let path = format!("{}/../packaging/examples/{example}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().skip_while(|line| line.trim() != "content: |").skip(1).peekable();
    let indentation = lines.peek().map_or(0, |line| line.len() - line.trim_start().len());
    let block = lines.take_while(|line| line.len() - line.trim_start().len() >= indentation);
    block.map(|line| format!("{}\n", &line[indentation..])).collect()
}

#[test]
fn the_example_for_cloud_init_is_taken() {
    // The rVM's name is the host name.
    let config = model::parse_as(&content("cloud-init.yaml"), Some("rvm1")).unwrap();
    assert_eq!((config.port.len(), config.peer.len()), (1, 1));
}

/// The Ansible example, with the values for the first of two hosts.
#[test]
fn the_example_for_ansible_is_taken() {
    let text: String = content("ansible.yml")
        .lines()
        .filter(|line| !line.starts_with("{%"))
        .map(|line| {
            let line = line.replace("{{ inventory_hostname }}", "rvm1").replace("{{ host }}", "rvm2");
            let line = line.replace("{{ ansible_default_ipv4.interface }}", "eth0");
            line.replace("{{ hostvars[host].ansible_default_ipv4.address }}", "10.0.0.12") + "\n"
        })
        .collect();
    assert!(!text.contains("{{"), "{text}");
    let config = model::parse(&text).unwrap();
    assert_eq!(config.name.as_deref(), Some("rvm1"));
    assert_eq!((config.port.len(), config.peer[0].address.to_string()), (1, "10.0.0.12".into()));
}
