//! Locates the programs that the harness starts.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use tokio::sync::OnceCell;

/// The root of the checkout.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in a folder of the workspace")
}

/// The path of one of the workspace's programs (`order`, `weft`), built from the current sources.
///
/// `WEFT_BINARIES` names a folder of prebuilt programs instead, to test a release build.
pub async fn program(name: &str) -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = BUILT
        .get_or_init(|| async {
            match env::var_os("WEFT_BINARIES") {
                Some(folder) => PathBuf::from(folder),
                None => tokio::task::spawn_blocking(build)
                    .await
                    .expect("the build does not panic by itself"),
            }
        })
        .await;
    folder.join(name)
}

/// The path of an external program: the one that `scripts/setup` provides, otherwise the one on PATH.
pub(crate) fn tool(name: &str) -> PathBuf {
    let ours = workspace_root().join(".tools/bin").join(name);
    // Symbolic links are resolved, because a server that runs as another user may not be able to enter the
    // checkout.
    ours.canonicalize().unwrap_or_else(|_| PathBuf::from(name))
}

/// Builds all programs, because `cargo test` alone builds none of another crate.
fn build() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bins"])
        .current_dir(workspace_root())
        .status()
        .expect("cargo runs the tests, so it is there");
    assert!(status.success(), "the programs do not build");
    let test = env::current_exe().expect("a running program has a path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("a test lies in target/PROFILE/deps");
    profile.to_owned()
}
