//! The build identity of a program, as dead letters and traces name it.

use std::{
    path::Path,
    process::{Command, Output},
};

use tests::workspace_root;

fn stdout(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_program_prints_its_build_and_weft_build_overrides_it() {
    for name in ["order", "payment", "claims", "weft"] {
        let program = tests::program(name).await;
        let output = Command::new(&program)
            .arg("--version")
            .env_remove("WEFT_BUILD")
            .output();
        let version = stdout(&output.unwrap());
        assert!(
            version.starts_with(&format!("{name} ")) && version.len() > name.len() + 1,
            "{version}"
        );
    }
    let mut order = Command::new(tests::program("order").await);
    let output = order.arg("--version").env("WEFT_BUILD", "0.1.0+image.7").output();
    assert_eq!(stdout(&output.unwrap()), "order 0.1.0+image.7");
}

#[test]
fn a_release_from_a_checkout_names_its_commit_and_a_build_without_one_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("build_identity");
    let compiled = Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg(workspace_root().join("scripts/build_identity.rs"))
        .output();
    stdout(&compiled.unwrap());
    let build = |profile: &str, given: &str, place: &Path| {
        let mut script = Command::new(&script);
        script
            .current_dir(place)
            .env("GIT_CEILING_DIRECTORIES", folder.path().parent().unwrap())
            .env("CARGO_PKG_VERSION", "0.1.0")
            .env("PROFILE", profile)
            .env("WEFT_BUILD", given);
        stdout(&script.output().unwrap())
    };
    let named = |said: &str, name: &str| {
        said.lines()
            .any(|line| line == format!("cargo::rustc-env=WEFT_BUILD={name}"))
    };
    assert!(
        named(&build("release", "", folder.path()), "0.1.0"),
        "there is no checkout"
    );
    assert!(named(
        &build("release", "0.1.0+image.7", folder.path()),
        "0.1.0+image.7"
    ));

    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(folder.path())
            .args(["-c", "user.name=tests", "-c", "user.email=tests@weft.test"])
            .args(arguments);
        stdout(&git.output().unwrap())
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    let inner = folder.path().join("services");
    std::fs::create_dir(&inner).unwrap();
    let release = build("release", "", &inner);
    assert!(named(&release, &format!("0.1.0+{commit}")), "{release}");
    assert!(
        release.contains("rerun-if-changed=") && release.contains("logs/HEAD"),
        "{release}"
    );
    let development = build("debug", "", &inner);
    assert!(named(&development, "0.1.0-dev"), "{development}");
    assert!(
        !development.contains("rerun-if-changed"),
        "a commit would build all of it anew"
    );
}
