//! A configuration in several files: the main file, which `ivctl` edits, and drop-ins, which only their authors edit.
//!
//! The drop-ins of `ivswitch.toml` are `ivswitch.toml.d/*.toml`, read in the order of their names. Entries of lists
//! (`[[network]]`, `[[port]]`, ...) add up. A section or key (`[uplink]`, `name`) of a later file replaces the same
//! one of an earlier file completely. The result is checked as one configuration: an object that is named twice is a
//! conflict, in whatever files it is.
//!
//! A drop-in may list every rVM of the cloud as a peer, so that all rVMs can share one file. Each rVM leaves its own
//! entry out ([`Skipped`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, Fault, Section};

/// The longest configuration text, in bytes: 65536 floating IPs fit with room to spare.
pub const TEXT_LEN_MAX: usize = 16 << 20;
/// The most drop-ins; bounds what a start reads.
pub const DROP_INS_MAX: usize = 256;

/// A file that adds to the main one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropIn {
    /// The file name.
    pub name: String,
    /// The file's text.
    pub text: String,
}

/// An entry of a drop-in that is left out because it is this rVM itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Skipped {
    /// The drop-in's file name.
    pub file: String,
    /// The peer that is this rVM.
    pub peer: String,
    /// Its address.
    pub address: String,
    /// How it was recognised: by its name, or by its address.
    pub why: String,
}

/// A parsed configuration: the whole, and the main file's part.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layered {
    /// The whole configuration, in force.
    pub whole: Config,
    /// The main file's part. Its entries come first in every list of `whole`.
    pub main: Config,
    /// The parts that come from drop-ins.
    pub origins: Origins,
}

/// The drop-in of each part; the rest is in the main file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origins {
    /// The files of the entries that follow the main file's entries in each list of the whole.
    pub(crate) entries: BTreeMap<Section, Vec<String>>,
    /// The files of keys and sections that are not lists (`name`, `uplink`, ...).
    pub(crate) sections: BTreeMap<&'static str, String>,
    /// Peers that are this rVM.
    pub skipped: Vec<Skipped>,
}

/// The directory for the drop-ins of a file.
#[must_use]
pub fn drop_in_directory(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(".d");
    file.with_file_name(name)
}

/// Reads a configuration file (`None`: it does not exist) and its drop-ins, in the order of their names.
///
/// # Errors
/// A file or the directory cannot be read or is too large; the text names it.
pub fn read_files(file: &Path) -> Result<(Option<String>, Vec<DropIn>), String> {
    let main = read_bounded(file)?;
    let directory = drop_in_directory(file);
    let mut names = Vec::new();
    match fs::read_dir(&directory) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(|e| format!("{}: {e}", directory.display()))?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                // Names of temporary files from editors and package managers have other endings, or are hidden.
                if name.ends_with(".toml") && !name.starts_with('.') {
                    names.push(name);
                }
            }
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(error) => return Err(format!("{}: {error}", directory.display())),
    }
    if names.len() > DROP_INS_MAX {
        let count = names.len();
        return Err(format!("{}: it has {count} files, more than {DROP_INS_MAX}", directory.display()));
    }
    names.sort_unstable();
    let mut drop_ins = Vec::new();
    for name in names {
        // Skip a file that was removed during the read.
        if let Some(text) = read_bounded(&directory.join(&name))? {
            drop_ins.push(DropIn { name, text });
        }
    }
    Ok((main, drop_ins))
}

fn read_bounded(file: &Path) -> Result<Option<String>, String> {
    let fail = |e: io::Error| format!("{}: {e}", file.display());
    let opened = match fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    opened.take(TEXT_LEN_MAX as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    String::from_utf8(bytes).map(Some).map_err(|e| format!("{}: {e}; TOML is UTF-8 text", file.display()))
}

/// Runs code for each list of a configuration.
macro_rules! each_list {
    ($do:ident) => {
        $do!(network, "network", name);
        $do!(port, "port", name);
        $do!(peer, "peer", name);
        $do!(floating, "floating", ip);
        $do!(route, "route", from);
        $do!(fdb, "fdb", mac);
    };
}

impl Layered {
    /// A configuration without drop-ins: everything belongs to the main file.
    #[must_use]
    pub fn of_main(config: Config) -> Self {
        Self { whole: config.clone(), main: config, origins: Origins::default() }
    }

    /// Takes an edit of `whole`, and returns the main file's new content, so that together with the drop-ins it gives
    /// `edited`.
    ///
    /// # Errors
    /// The edit changes or removes an entry of a drop-in, which only its author may do.
    pub fn edit(&self, edited: Config) -> Result<Self, ConfigError> {
        let mut next = Self { whole: edited, main: self.main.clone(), origins: self.origins.clone() };
        macro_rules! take_apart {
            ($list:ident, $noun:literal, $name:ident) => {
                let fixed = &self.whole.$list[self.main.$list.len()..];
                let mut own = std::mem::take(&mut next.whole.$list);
                for entry in fixed {
                    // Search from the end, where the entries are unless something was added since.
                    let Some(at) = own.iter().rposition(|e| e == entry) else {
                        return Err(fixed_elsewhere($noun, &entry.$name.to_string()));
                    };
                    own.remove(at);
                }
                next.main.$list.clone_from(&own);
                own.extend_from_slice(fixed);
                next.whole.$list = own;
            };
        }
        each_list!(take_apart);
        Ok(next)
    }
}

fn fixed_elsewhere(noun: &str, name: &str) -> ConfigError {
    ConfigError {
        fault: Fault::Conflict,
        object: format!("{noun} {name}"),
        cause: "it is in a drop-in, which ivctl does not edit".to_owned(),
        remedy: "change or remove the file in the .d directory, then `systemctl reload ivswitchd`".to_owned(),
        position: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Network, parse_layers};
    use super::*;

    fn drop_in(name: &str, text: &str) -> DropIn {
        DropIn { name: name.into(), text: text.into() }
    }

    /// Lists add up, later sections win, and errors name their file.
    #[test]
    fn files_are_layers() {
        let main = "name = \"a\"\n[uplink]\ninterface = \"eth0\"\n[[network]]\nname = \"x\"\nvni = 1\n";
        let one = drop_in("10.toml", "[uplink]\ninterface = \"eth9\"\n[[network]]\nname = \"y\"\nvni = 2\n");
        let two = drop_in("20.toml", "[[port]]\nname = \"p\"\nnetwork = \"y\"\n");
        let read = parse_layers(main, &[one.clone(), two.clone()], None).unwrap();
        assert_eq!(read.whole.uplink.as_ref().unwrap().interface, "eth9");
        assert_eq!(read.main.uplink.as_ref().unwrap().interface, "eth0");
        assert_eq!(read.origins.sections.get("uplink").map(String::as_str), Some("10.toml"));
        assert_eq!(read.origins.entries[&Section::Network], ["10.toml"]);
        assert_eq!(read.whole.network.iter().map(|n| n.vni).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((read.main.network.len(), read.main.port.len(), read.whole.port.len()), (1, 0, 1));

        let twice = drop_in("30.toml", "\n[[network]]\nname = \"x\"\nvni = 3\n");
        let errors = parse_layers(main, &[one.clone(), twice], None).unwrap_err();
        assert!(errors[0].object.starts_with("30.toml: network"), "{errors:?}");
        assert_eq!(errors[0].position, Some((2, 1)));
        let broken = drop_in("40.toml", "[[network]\n");
        let errors = parse_layers("x = 1\n", &[two, broken], None).unwrap_err();
        let objects: Vec<_> = errors.iter().map(|e| e.object.as_str()).collect();
        // Syntax errors come first: other errors can only be found when all files are parsed.
        assert_eq!(objects, ["40.toml: configuration"]);
    }

    /// One drop-in with every rVM as a peer serves each of them: an rVM leaves its own entry out, by name or by
    /// address. In the main file such an entry is an error. It is also one in a drop-in if its address is this rVM's,
    /// but other objects refer to its name.
    #[test]
    fn a_list_of_all_rvms_serves_each() {
        let all = drop_in(
            "all.toml",
            "[[peer]]\nname = \"a\"\naddress = \"10.0.0.1\"\n[[peer]]\nname = \"b\"\naddress = \"10.0.0.2\"\n\
             [[peer]]\nname = \"c\"\naddress = \"10.0.0.3\"\nnetworks = [\"none\"]\n",
        );
        let names = |config: &Config| config.peer.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        let all_of = |text: &str| drop_in("all.toml", &all.text.replace("networks = [\"none\"]\n", text));
        // By its own name, by the host's name or the configured one; by its address.
        for (main, host) in [
            ("", "b"),
            ("name = \"b\"\n", "x"),
            ("name = \"x\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.2\"\n", "y"),
        ] {
            let read = parse_layers(main, &[all_of("")], Some(host)).unwrap();
            assert_eq!(names(&read.whole), ["a", "c"], "{main}");
            let skipped = &read.origins.skipped;
            assert_eq!(skipped.len(), 1);
            assert_eq!((skipped[0].file.as_str(), skipped[0].peer.as_str()), ("all.toml", "b"));
            assert_eq!(read.origins.entries[&Section::Peer], ["all.toml", "all.toml"]);
        }
        // Errors in the entries after it are reported at their place.
        let errors = parse_layers("", std::slice::from_ref(&all), Some("b")).unwrap_err();
        assert_eq!((errors[0].object.as_str(), errors[0].position), ("all.toml: peer \"c\"", Some((7, 1))));
        let errors = parse_layers(&all_of("").text, &[], Some("b")).unwrap_err();
        assert!(errors[0].cause.contains("this rVM itself"), "{errors:?}");
        let main = "name = \"x\"\n[uplink]\ninterface = \"eth0\"\naddress = \"10.0.0.2\"\n[[network]]\nname = \"n\"\n\
                    vni = 1\n[[route]]\nnetwork = \"n\"\nfrom = \"1.0.0.0/8\"\nvia = \"b\"\n";
        let errors = parse_layers(main, &[all_of("")], Some("y")).unwrap_err();
        assert!(errors[0].remedy.contains("name = \"b\""), "{errors:?}");
    }

    /// An edit changes only the main file. An edit of a drop-in's entry is refused, and the error names the drop-in.
    #[test]
    fn edits_leave_drop_ins_alone() {
        let main = "[[network]]\nname = \"x\"\nvni = 1\n";
        let drop_ins = [drop_in("10.toml", "[[network]]\nname = \"y\"\nvni = 2\n")];
        let read = parse_layers(main, &drop_ins, None).unwrap();
        let mut edited = read.whole.clone();
        edited.network.push(Network::new("z", 3));
        edited.network.remove(0);
        let next = read.edit(edited).unwrap();
        assert_eq!(next.main.network, [Network::new("z", 3)]);
        assert_eq!(next.whole.network, [Network::new("z", 3), Network::new("y", 2)]);
        assert_eq!(parse_layers(&super::super::print(&next.main), &drop_ins, None).unwrap(), next);

        let mut edited = next.whole.clone();
        edited.network[1].vni = 5;
        assert!(next.edit(edited).unwrap_err().cause.contains("drop-in"));
    }

    /// Only `*.toml` files count, in the order of their names; none at all is fine; a file that is not text is an
    /// error that names the file.
    #[test]
    fn drop_ins_are_read_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        assert_eq!(read_files(&file).unwrap(), (None, vec![]));
        fs::write(&file, "main").unwrap();
        let drop_ins = drop_in_directory(&file);
        assert_eq!(drop_ins, directory.path().join("a.toml.d"));
        fs::create_dir(&drop_ins).unwrap();
        for name in ["20-b.toml", "10-a.toml", "10-a.toml~", ".hidden.toml", "README"] {
            fs::write(drop_ins.join(name), name).unwrap();
        }
        let (main, found) = read_files(&file).unwrap();
        assert_eq!(main.as_deref(), Some("main"));
        let names: Vec<_> = found.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["10-a.toml", "20-b.toml"]);
        fs::write(drop_ins.join("30.toml"), [0xff, 0xfe]).unwrap();
        assert!(read_files(&file).unwrap_err().contains("30.toml"));
    }
}
