//! What a service declares to become a program.

use std::future::Future;

use crate::{Process, Settings, postgres::Migrations};

/// A service process: `fn main() -> ExitCode { chassis::run::<Order>() }`.
pub trait Service {
    /// Its name: of the program, the folder, the database, and, in upper case, the environment's prefix.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// Its settings.
    type Settings: Settings;

    /// The sets of migrations of its database, in order. The chassis's own run first, unasked.
    fn migrations() -> Vec<Migrations>;

    /// Serves until `process.shutdown`. When it returns, the process drains and ends.
    ///
    /// # Errors
    /// What stopped it, or kept it from starting.
    fn serve(settings: Self::Settings, process: Process) -> impl Future<Output = anyhow::Result<()>> + Send;
}
