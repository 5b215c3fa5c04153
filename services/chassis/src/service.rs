//! What a service implements to become a program.

use std::future::Future;

use crate::{Process, Settings, postgres::Migrations};

/// A service process: `fn main() -> ExitCode { chassis::run::<Order>() }`.
pub trait Service {
    /// The name of the program, the folder and the database, and, in upper case, the prefix of its environment
    /// variables.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// Its settings.
    type Settings: Settings;

    /// The contract of its server: an encoded `FileDescriptorSet` that includes its imports, the extension options and
    /// `ops.v1`. Default: Weft's own.
    fn contract() -> &'static [u8] {
        proto::SCHEMA
    }

    /// The sets of migrations of its database, in order. The chassis's own are always run first.
    fn migrations() -> Vec<Migrations>;

    /// Serves until `process.shutdown`. When it returns, the process drains and ends.
    ///
    /// # Errors
    /// Why it could not start, or stopped.
    fn serve(settings: Self::Settings, process: Process) -> impl Future<Output = anyhow::Result<()>> + Send;
}
