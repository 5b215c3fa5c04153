//! The confirmation of actions that cannot be undone.

use std::io::{IsTerminal as _, Write as _, stdin};

use clap::Args;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Confirmation {
    /// Do it without asking, as scripts must
    #[arg(long, short)]
    yes: bool,
}

impl Confirmation {
    /// Returns once a person at the terminal has agreed, or at once with `--yes`.
    ///
    /// # Errors
    /// When the answer is no, or standard input is no terminal.
    pub(crate) fn ask(self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !stdin().is_terminal() {
            return Err(Failure::Usage(format!(
                "{question} Standard input is no terminal: confirm with --yes"
            )));
        }
        eprint!("{question} [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            eprintln!("nothing was done");
            Err(Failure::AlreadyReported)
        }
    }
}
