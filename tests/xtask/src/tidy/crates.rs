//! Dependencies between the crates of the tree, compared with the table in `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One package of the tree, as `cargo metadata` describes it.
pub struct Package {
    pub name: String,
    /// The root files of its libraries, programs and tests, from the tree's root.
    pub roots: Vec<String>,
    /// The tree's packages that it depends on, also those that only its tests need.
    pub needs: BTreeSet<String>,
}

/// Asks cargo for the packages of the workspace, and of `fuzz`, which is one of its own.
pub fn packages(root: &Path) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let mut cargo = crate::cargo();
        cargo.args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path", manifest]);
        let output = cargo.output().context("running cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        found.extend(parse(root, &serde_json::from_slice(&output.stdout)?)?);
    }
    Ok(found)
}

fn parse(root: &Path, metadata: &Value) -> Result<Vec<Package>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let word = |value: &Value| value.as_str().map(str::to_owned).context("a name in cargo's metadata");
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        let mut read = Package { name: word(&package["name"])?, roots: Vec::new(), needs: BTreeSet::new() };
        for target in list(&package["targets"]) {
            let path = word(&target["src_path"])?;
            let path = Path::new(&path).strip_prefix(root).context("a target outside of the tree")?;
            read.roots.push(path.to_string_lossy().into_owned());
        }
        // A dependency with a path is on a package of the tree.
        for dependency in list(&package["dependencies"]).iter().filter(|d| d["path"].is_string()) {
            read.needs.insert(word(&dependency["name"])?);
        }
        found.push(read);
    }
    Ok(found)
}

/// The heading of the table.
const HEADING: &str = "| Crate | imports |";

/// The table in the text of `ARCHITECTURE.md`: the crates that each crate imports.
fn table(picture: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows = picture.lines().skip_while(|line| *line != HEADING).skip(2);
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut found = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let mut cells = row.split('|').skip(1).map(names);
        let (crates, needs) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        found.extend(crates.into_iter().map(|name| (name, needs.iter().cloned().collect())));
    }
    found
}

/// The differences between the packages and the table.
pub fn faults(packages: &[Package], picture: &str) -> Vec<String> {
    let table = table(picture);
    if table.is_empty() {
        return vec![format!("ARCHITECTURE.md has no table with the heading {HEADING:?}: restore it")];
    }
    let mut faults = Vec::new();
    for Package { name, needs, .. } in packages {
        let Some(may) = table.get(name) else {
            faults.push(format!(
                "ARCHITECTURE.md has no row for the crate {name}: add it to the table of crates"
            ));
            continue;
        };
        faults.extend(needs.difference(may).map(|other| {
            format!(
                "the Cargo.toml of {name} has {name} -> {other}, but the table of crates in ARCHITECTURE.md has not: \
                 remove the dependency, or change the architecture there"
            )
        }));
        faults.extend(may.difference(needs).map(|other| {
            format!(
                "the table of crates in ARCHITECTURE.md has {name} -> {other}, but the Cargo.toml of {name} has not: \
                 remove it from the table"
            )
        }));
    }
    let gone = table.keys().filter(|name| !packages.iter().any(|package| package.name == **name));
    faults.extend(gone.map(|name| {
        format!("the table of crates in ARCHITECTURE.md has {name}, which is no crate: remove the row")
    }));
    faults
}
