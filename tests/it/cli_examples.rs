//! The files that `docs/cli.md` names exist, and the commands accept them as documented.

use std::{
    fs,
    process::{Command, Output},
};

use tests::{Stack, workspace_root};

use crate::cli_fixture::{errors, finished};

#[test]
fn every_file_that_a_command_of_the_document_names_is_there() {
    let endings = [".json", ".xml", ".csv", ".pdf", ".txt", ".pem", ".toml"];
    let commands = commands();
    let words = commands.iter().flat_map(|command| command.split(' '));
    let files: Vec<&str> = words
        .filter(|word| endings.iter().any(|ending| word.ends_with(ending)))
        .collect();
    assert!(files.len() >= 8, "{files:?}");
    for file in files {
        assert!(workspace_root().join(file).is_file(), "{file} is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_document_take_the_example_files() {
    let stack = Stack::start().await;
    let examples: Vec<String> = commands()
        .into_iter()
        .filter(|command| command.contains("docs/examples/"))
        .collect();
    // The payer's first remittance precedes the resubmission of its claim.
    let (resubmissions, others): (Vec<_>, Vec<_>) = examples
        .into_iter()
        .partition(|command| command.contains("resubmit"));
    assert!(others.len() >= 7 && resubmissions.len() == 1, "{others:?}");
    for command in others.iter().chain(&resubmissions) {
        let done = pasted(&stack, command).await;
        assert!(done.status.success(), "{command}: {}", errors(&done));
    }
}

/// The commands of the document, each in one line and without its comment.
fn commands() -> Vec<String> {
    let document = fs::read_to_string(workspace_root().join("docs/cli.md")).unwrap();
    let document = document.replace("\\\n", " ");
    let lines = document
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with("weft "));
    lines
        .map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned())
        .collect()
}

/// Runs a command as if pasted into a shell at the root of the checkout.
async fn pasted(stack: &Stack, line: &str) -> Output {
    let weft = stack.weft(&stack.token("clinic", &["admin"])).await;
    let mut command = Command::new("bash");
    for (name, value) in weft.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let program = weft.get_program().to_string_lossy().into_owned();
    let script = format!("weft() {{ '{program}' \"$@\"; }}; {line}");
    command.args(["-euc", &script]).current_dir(workspace_root());
    finished(command).await
}
