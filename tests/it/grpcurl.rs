//! Runs `docs/grpcurl.md` from top to bottom with a real `grpcurl`, as a reader would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use prost_reflect::DescriptorPool;
use tests::{Service, Stack, eventually, workspace_root};

/// The facility of `weft env`, which the dead letter names.
const FACILITY: &str = "local";
const DOCUMENT: &str = "docs/grpcurl.md";

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_grpcurl_example_works() {
    let stack = Stack::start().await;
    let shell = Shell::beside(&stack);
    for example in examples()
        .into_iter()
        .filter(|example| !example.contains("weft env"))
    {
        // Events take effect asynchronously, so that an example may have to be repeated.
        eventually(Duration::from_secs(15), || async { shell.paste(&example) }).await;
    }
}

#[test]
fn every_rpc_has_a_grpcurl_example() {
    let document = document();
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let missing: Vec<String> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| format!("{}/{}", method.parent_service().full_name(), method.name()))
        .filter(|path| !document.contains(path.as_str()))
        .collect();
    assert!(missing.is_empty(), "{DOCUMENT} has no example of {missing:?}");
}

/// A shell that keeps its variables between examples.
struct Shell {
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Shell {
    fn beside(stack: &Stack) -> Shell {
        let shell = Shell {
            folder: stack.folder().to_owned(),
            environment: vec![
                ("ORDER", stack.address(Service::Order)),
                ("PAYMENT", stack.address(Service::Payment)),
                ("CLAIMS", stack.address(Service::Claims)),
                ("NATS", stack.nats().url().to_owned()),
                ("ORDER_PROBE", stack.probe_address(Service::Order)),
                ("TOKEN", stack.token(FACILITY, &["admin"]).as_str().to_owned()),
                ("PATH", path_with_tools(workspace_root())),
            ],
        };
        fs::write(shell.folder.join("variables"), "").unwrap();
        shell
    }

    fn paste(&self, example: &str) -> Result<(), String> {
        let script = format!(
            "set -euo pipefail\n. ./variables\n{example}\n(set -o posix; set) | grep -E '^[A-Z_]+_ID=[-0-9a-f]+$' > ./variables || true\n"
        );
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(&self.folder)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("bash is on PATH");
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{example}\n{}", String::from_utf8_lossy(&output.stderr)))
        }
    }
}

fn path_with_tools(root: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", root.join(".tools/bin").display())
}

fn document() -> String {
    fs::read_to_string(workspace_root().join(DOCUMENT)).unwrap()
}

fn examples() -> Vec<String> {
    let document = document();
    let blocks = document.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect()
}
