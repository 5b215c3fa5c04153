//! The five files of the demonstration, embedded in the program so that it works in any folder.

use std::{fs, io, path::Path};

macro_rules! example {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../../docs/examples/eclaimlink/", $name)),
        )
    };
}

const FILES: [(&str, &str); 5] = [
    example!("01_submission.xml"),
    example!("02_remittance_partial.xml"),
    example!("03_resubmission.xml"),
    example!("04_remittance_after_resub.xml"),
    example!("05_remittance_takeback.xml"),
];

/// Creates the folder and writes the files into it.
pub(super) fn unpack(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    FILES
        .iter()
        .try_for_each(|(name, content)| fs::write(folder.join(name), content))
}
