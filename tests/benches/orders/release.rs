//! The measured programs: their folder and commit, and whether they are release builds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};
use tests::workspace_root;

const PROGRAMS: [&str; 4] = ["weft", "order", "payment", "claims"];

/// A folder of release binaries.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    /// `ours` or `against`.
    pub(crate) name: &'static str,
    folder: PathBuf,
    /// Output of `weft --version`: the version and the commit.
    pub(crate) build: String,
}

impl Release {
    /// The binaries of this checkout, or those in a given folder.
    ///
    /// # Errors
    /// When a program is missing or is no release build.
    pub(crate) fn ours(given: Option<&Path>) -> anyhow::Result<Release> {
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from);
        let folder = given.map_or_else(|| target.join("release"), Path::to_owned);
        Release::new("ours", &folder)
    }

    /// The binaries of another checkout, or those in a folder.
    ///
    /// # Errors
    /// As [`Release::ours`].
    pub(crate) fn against(given: &Path) -> anyhow::Result<Release> {
        let built = given.join("target/release");
        Release::new("against", if built.is_dir() { &built } else { given })
    }

    fn new(name: &'static str, folder: &Path) -> anyhow::Result<Release> {
        let folder = fs::canonicalize(folder)
            .with_context(|| format!("{}: build it with cargo build --release --bins", folder.display()))?;
        for program in PROGRAMS {
            let path = folder.join(program);
            let binary = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            let sections = sections(&binary).with_context(|| format!("{}", path.display()))?;
            ensure!(
                !sections
                    .iter()
                    .any(|section| [".debug_info", ".debug_line"].contains(&section.as_str())),
                "{} is no release build: it holds debug information",
                path.display()
            );
        }
        let weft = folder.join("weft");
        let output = Command::new(&weft).arg("--version").output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let build = said.trim().trim_start_matches("weft ").to_owned();
        ensure!(
            !build.ends_with("-dev"),
            "{} is no release build: {build}",
            weft.display()
        );
        Ok(Release { name, folder, build })
    }

    /// The command line for the system in `home`, without settings of the caller's environment.
    pub(crate) fn weft(&self, home: &Path) -> Command {
        let mut command = Command::new(self.folder.join("weft"));
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["WEFT_", "OTEL_", "ORDER_", "PAYMENT_", "CLAIMS_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        // Finds nats-server and PostgreSQL there, if they are not on PATH.
        command.current_dir(workspace_root()).arg("--dir").arg(home);
        command
    }
}

/// The names of an ELF file's sections (64 bits, little endian).
fn sections(binary: &[u8]) -> anyhow::Result<Vec<String>> {
    if binary.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("it is no 64-bit ELF program");
    }
    let number = |at: usize, length: usize| -> anyhow::Result<usize> {
        let bytes = binary.get(at..at + length).context("the program is cut short")?;
        let value = bytes
            .iter()
            .rev()
            .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        Ok(usize::try_from(value)?)
    };
    let (headers, size) = (number(0x28, 8)?, number(0x3a, 2)?);
    let (count, names) = (number(0x3c, 2)?, number(0x3e, 2)?);
    let texts = number(headers + names * size + 0x18, 8)?;
    let mut sections = Vec::with_capacity(count);
    for place in 0..count {
        let name = texts + number(headers + place * size, 4)?;
        let text = binary.get(name..).context("the program is cut short")?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
        sections.push(String::from_utf8_lossy(&text[..end]).into_owned());
    }
    Ok(sections)
}
