//! Checks the dependencies between crates that `ARCHITECTURE.md` draws. `deny.toml` forbids the others too.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use tests::sources;

/// Every crate of the workspace, and the workspace crates that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("money", &["proto"]),
    ("weft-policy", &[]),
    ("weft-mesh", &["weft-policy"]),
    ("events", &["chassis", "proto"]),
    ("weft-server", &["weft-mesh"]),
    ("chassis", &["weft-mesh", "proto", "weft-server"]),
    ("order", &["chassis", "events", "weft-mesh", "money", "proto"]),
    ("payment", &["chassis", "events", "weft-mesh", "money", "proto"]),
    (
        "claims",
        &["chassis", "eclaimlink", "events", "weft-mesh", "money", "proto"],
    ),
    ("eclaimlink", &[]),
    ("weft", &["eclaimlink", "weft-mesh", "money", "proto"]),
    (
        "tests",
        &[
            "chassis",
            "claims",
            "eclaimlink",
            "events",
            "weft-mesh",
            "money",
            "order",
            "payment",
            "proto",
            "weft",
            "weft-server",
        ],
    ),
];

/// What the tests of a crate may use besides.
const TESTS_MAY_USE: &[(&str, &[&str])] = &[("weft-server", &["proto", "weft-server"])];

/// Libraries that only these crates may use.
const RESERVED: &[(&str, &[&str])] = &[
    (
        "sqlx",
        &["chassis", "claims", "events", "order", "payment", "tests"],
    ),
    ("async-nats", &["events", "tests"]),
];

fn members() -> Vec<Package> {
    let manifest = tests::workspace_root().join("Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .exec()
        .unwrap();
    metadata.packages
}

fn dependencies(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .map(|dependency| dependency.name.as_str())
        .collect()
}

/// What a crate uses beside its tests.
fn dependencies_of_code(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.as_str())
        .collect()
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    let members = members();
    let names: BTreeSet<&str> = members.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(
        names,
        MAY_USE.iter().map(|(name, _)| *name).collect(),
        "a crate is missing from this test"
    );

    for (name, allowed) in MAY_USE {
        let package = members
            .iter()
            .find(|package| package.name.as_str() == *name)
            .unwrap();
        let wrong = |used: BTreeSet<&str>, of_tests: &[&str]| -> Vec<String> {
            let used = used.intersection(&names).copied();
            used.filter(|used| !allowed.contains(used) && !of_tests.contains(used))
                .map(str::to_owned)
                .collect()
        };
        let found = wrong(dependencies_of_code(package), &[]);
        assert!(found.is_empty(), "{name} may not use {found:?}");
        let of_tests = TESTS_MAY_USE.iter().find(|(of, _)| of == name);
        let found = wrong(dependencies(package), of_tests.map_or(&[], |(_, used)| used));
        assert!(found.is_empty(), "the tests of {name} may not use {found:?}");
    }
}

#[test]
fn only_data_crates_use_sqlx_and_only_events_uses_the_nats_client() {
    for package in members() {
        for (library, allowed) in RESERVED {
            let uses = dependencies(&package).contains(library);
            assert!(
                !uses || allowed.contains(&package.name.as_str()),
                "{} may not use {library}",
                package.name
            );
        }
    }
}

#[test]
fn folder_and_crate_have_the_same_name() {
    for package in members() {
        let folder = package
            .manifest_path
            .parent()
            .and_then(|folder| folder.file_name())
            .unwrap();
        // Crates for other projects have a prefix.
        let name = package.name.strip_prefix("weft-").unwrap_or(&package.name);
        assert_eq!(folder, name);
    }
}

/// Every guarantee in `ARCHITECTURE.md` names an existing test.
#[test]
fn every_test_that_the_architecture_names_exists() {
    let document = std::fs::read_to_string(tests::workspace_root().join("ARCHITECTURE.md")).unwrap();
    let promises = document
        .split("## What always holds")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let named: Vec<&str> = promises
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.matches('_').count() > 2)
        .collect();
    assert!(named.len() >= 10, "the invariants name their tests: {named:?}");

    let mut all = String::new();
    sources::visit(tests::workspace_root(), &mut |_, source| all += source);
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !all.contains(&format!("fn {name}(")))
        .collect();
    assert!(missing.is_empty(), "no test is called {missing:#?}");
}

#[test]
fn no_source_file_has_more_than_400_lines() {
    let root = tests::workspace_root();
    let mut long = Vec::new();
    for folder in ["clients", "services", "tests"] {
        sources::visit(&root.join(folder), &mut |path, source| {
            if source.lines().count() > 400 {
                long.push(path.to_owned());
            }
        });
    }
    assert!(long.is_empty(), "split these: {long:#?}");
}
