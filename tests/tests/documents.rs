//! The documents say what is so.

#![expect(clippy::disallowed_methods, reason = "the tests stand on the other side of the host boundary")]
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::collections::BTreeSet;
use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

fn top() -> &'static Utf8Path {
    Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every Rust file below a folder.
fn sources(folder: &Utf8Path, found: &mut Vec<Utf8PathBuf>) {
    for entry in folder.read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension() == Some("rs") {
            found.push(path);
        }
    }
}

/// The functions in these files that stand under a test attribute or in a property test.
fn tests_of(files: &[Utf8PathBuf]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, name)) = line.split_once("fn ").filter(|_| is_test) {
                names.insert(name.split('(').next().unwrap().to_owned());
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_invariant_in_architecture_names_tests_that_are_there() {
    let mut files = Vec::new();
    for package in ["proto", "coordinator", "agent", "tests"] {
        sources(&top().join(package), &mut files);
    }
    let tests = tests_of(&files);
    let text = fs::read_to_string(top().join("ARCHITECTURE.md")).unwrap();
    let (_, table) = text.split_once("| what always holds | guarded by |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut guarded = 0;
    for row in rows {
        let guards = row.split('|').nth(2).unwrap();
        let named: Vec<&str> = guards.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing guards: {row}");
        for name in named {
            assert!(tests.contains(name), "no test is called {name}");
        }
        guarded += 1;
    }
    assert!(guarded > 10, "the table of invariants was not found");
}

#[test]
fn every_scenario_of_the_real_cluster_is_in_its_readme_with_its_end() {
    let cluster = top().join("tests/cluster");
    let files = cluster.join("scenarios").read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path());
    let scenarios: BTreeSet<String> = files.map(|file| file.file_stem().unwrap().to_owned()).collect();
    let text = fs::read_to_string(cluster.join("README.md")).unwrap();
    let (_, table) = text.split_once("| ends | scenarios").unwrap();
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    for scenario in scenarios {
        let named = |row: &&&str| row.split([' ', ',']).any(|word| word == scenario);
        assert!(rows.iter().any(|row| named(&row)), "{scenario} is in no row of the table");
    }
}

#[test]
fn every_kind_that_a_minor_takes_away_for_good_is_counted_by_agents() {
    let table = liftlock::core::minors::minors();
    let vanishing: BTreeSet<&str> = table
        .removed(0, u16::MAX, liftlock::core::minors::Removed::Kind)
        .flat_map(|(_, removal)| removal.names.iter().map(String::as_str))
        .collect();
    let counted = liftlock_agent::findings::VANISHING.map(|(kind, _)| kind);
    assert_eq!(vanishing, BTreeSet::from(counted));
    for (kind, collections) in liftlock_agent::findings::VANISHING {
        let (resource, group) = kind.split_once('.').unwrap();
        for collection in collections {
            assert!(
                collection.starts_with(&format!("/apis/{group}")) && collection.ends_with(resource),
                "{kind}"
            );
        }
    }
}
