//! Build script of the crates that tell which build they are, in `WEFT_BUILD`: what that variable says while they are
//! built; else the version, with the commit in a release build from a checkout. A development build names no commit:
//! it would have to be built anew for each.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=WEFT_BUILD");
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    let given = env::var("WEFT_BUILD").ok().filter(|build| !build.is_empty());
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let build = match given {
        Some(build) => build,
        None if release => match commit() {
            Some(commit) => format!("{version}+{commit}"),
            None => version,
        },
        None => format!("{version}-dev"),
    };
    println!("cargo::rustc-env=WEFT_BUILD={build}");
}

/// `None` outside a checkout, or without git.
fn commit() -> Option<String> {
    // The log of HEAD grows with every commit and every checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
