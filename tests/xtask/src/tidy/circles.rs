//! Circles between the modules of a crate. Modules next to each other, with everything below them, must not import
//! each other in a circle. A module may import from the module around it, and the other way round.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Result;

use super::crates::Package;
use super::lists::Lists;
use super::modules::{Crate, Words};
use super::{Files, LISTS, stale};

/// The imports between modules next to each other: from one to the other, with one example.
type Arrows = BTreeMap<String, BTreeMap<String, Example>>;

/// One import: the file and line, and the path as written there.
type Example = (String, usize, String);

/// The circles in all crates of these packages.
pub fn faults(files: &Files, packages: &[Package], lists: &Lists) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for root in packages.iter().flat_map(|package| &package.roots) {
        for (around, arrows) in arrows(&Crate::read(files, root)?) {
            let place = place(root, &around);
            for circle in circles(&arrows) {
                if let Some(listed) = lists.circles().find(|listed| covers(listed, &place, &circle)) {
                    used.insert(listed);
                } else {
                    faults.push(report(&place, &circle, &arrows));
                }
            }
        }
    }
    let unused = lists.circles().filter(|listed| !used.contains(listed));
    faults.extend(unused.map(|listed| stale(listed, "there is no such circle")));
    Ok(faults)
}

/// Whether an exception accepts this circle: it names the place, and all of the circle's modules.
fn covers(listed: &str, place: &str, circle: &BTreeSet<String>) -> bool {
    let modules = listed.split_once(": ").filter(|(of, _)| *of == place).map(|(_, modules)| modules);
    modules.is_some_and(|modules| circle.iter().all(|module| modules.split(' ').any(|name| name == module)))
}

/// How messages and the list of exceptions call the modules below one: by their directory.
fn place(root: &str, around: &[String]) -> String {
    let (directory, file) = root.rsplit_once('/').unwrap_or(("", root));
    let shared = !["lib.rs", "main.rs"].contains(&file);
    let directory = if shared && around.is_empty() { root } else { directory };
    std::iter::once(directory).chain(around.iter().map(String::as_str)).collect::<Vec<_>>().join("/")
}

/// The arrows of a crate, by the module around the modules that they connect.
fn arrows(of: &Crate) -> BTreeMap<Words, Arrows> {
    let mut found: BTreeMap<Words, Arrows> = BTreeMap::new();
    for (id, module) in of.modules.iter().enumerate() {
        for mention in &module.mentions {
            let Some(target) = of.target(id, &mention.words) else { continue };
            let target = &of.modules[target].path;
            let shared = module.path.iter().zip(target).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (module.path.get(shared), target.get(shared)) else { continue };
            let arrows = found.entry(module.path[..shared].to_vec()).or_default();
            let example = || (module.file.clone(), mention.line, mention.words.join("::"));
            arrows.entry(from.clone()).or_default().entry(to.clone()).or_insert_with(example);
        }
    }
    found
}

/// The sets of modules that reach each other.
fn circles(arrows: &Arrows) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<String>> =
        arrows.keys().map(|from| (from, reached(arrows, from))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (from, to) in &reach {
        if to.contains(*from) && !found.iter().any(|circle| circle.contains(*from)) {
            let back = |other: &&String| reach.get(*other).is_some_and(|to| to.contains(*from));
            found.push(to.iter().filter(back).cloned().collect());
        }
    }
    found
}

fn reached(arrows: &Arrows, from: &str) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(next) = open.pop() {
        for to in arrows.get(&next).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    found
}

/// The shortest way around within a circle.
fn shortest(arrows: &Arrows, circle: &BTreeSet<String>) -> Words {
    circle.iter().filter_map(|start| around(arrows, circle, start)).min_by_key(Vec::len).unwrap_or_default()
}

/// The shortest way from a module back to itself, with the module at both ends.
fn around(arrows: &Arrows, circle: &BTreeSet<String>, start: &str) -> Option<Words> {
    let (mut ways, mut seen) = (VecDeque::from([vec![start.to_owned()]]), BTreeSet::new());
    while let Some(way) = ways.pop_front() {
        for to in arrows.get(way.last()?)?.keys().filter(|to| circle.contains(*to)) {
            let mut longer = way.clone();
            longer.push(to.clone());
            if to == start {
                return Some(longer);
            }
            if seen.insert(to.clone()) {
                ways.push_back(longer);
            }
        }
    }
    None
}

fn report(place: &str, circle: &BTreeSet<String>, arrows: &Arrows) -> String {
    let modules = circle.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let way = shortest(arrows, circle);
    let steps = way.windows(2).map(|step| {
        let (file, line, path) = &arrows[&step[0]][&step[1]];
        format!("\n  {} -> {}: {file}:{line} has {path}", step[0], step[1])
    });
    format!(
        "modules import each other in a circle, in {place}: {modules}{}\n  move what both need to the lower module, or to one \
         below both; EXCEPTIONS in {LISTS} has the known circles",
        steps.collect::<String>()
    )
}
