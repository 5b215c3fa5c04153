//! An upload is kept in an unnamed file until it is whole: a file is known by its digest, and nothing of a broken one
//! may be booked. The system removes the file with the process, however that ends.

use std::{
    fs::File,
    io::{self, BufReader, Seek, Write as _},
};

use anyhow::Context as _;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::{config, error::Error, rules::Violation};

/// A file that is coming in.
#[derive(Debug)]
pub struct Spool {
    file: BufWriter<tokio::fs::File>,
    hasher: Sha256,
    left: u64,
    limit: u64,
}

/// A file that has come in.
#[derive(Debug)]
pub struct Spooled {
    file: File,
    /// Its SHA-256.
    pub digest: [u8; 32],
}

/// Sees whether files can be kept: a service that could take none in does not start.
///
/// # Errors
/// When the folder cannot be written to.
pub fn check(settings: &config::Import) -> anyhow::Result<()> {
    let folder = match settings.spool_folder.as_os_str().is_empty() {
        true => std::env::temp_dir(),
        false => settings.spool_folder.clone(),
    };
    let written = tempfile::tempfile_in(&folder).and_then(|mut file| file.write_all(b"spool"));
    written.with_context(|| {
        let folder = folder.display();
        format!("import.spool_folder: remittance files cannot be kept in {folder}; set it to a folder that can be written to")
    })
}

impl Spool {
    /// An empty file.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn open(settings: &config::Import) -> Result<Spool, Error> {
        let file = match settings.spool_folder.as_os_str().is_empty() {
            true => tempfile::tempfile()?,
            false => tempfile::tempfile_in(&settings.spool_folder)?,
        };
        let file = BufWriter::new(tokio::fs::File::from_std(file));
        let limit = settings.max_file_bytes;
        Ok(Spool {
            file,
            hasher: Sha256::new(),
            left: limit,
            limit,
        })
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// [`Error::Invalid`] FILE_TOO_LARGE beyond the limit.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let Some(left) = self.left.checked_sub(piece.len() as u64) else {
            let message = format!("the file has more than {} bytes", self.limit);
            return Err(Error::Invalid(vec![Violation::new(
                "FILE_TOO_LARGE",
                "chunk",
                message,
            )]));
        };
        self.left = left;
        self.hasher.update(piece);
        Ok(self.file.write_all(piece).await?)
    }

    /// The whole file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn finish(mut self) -> Result<Spooled, Error> {
        self.file.flush().await?;
        let file = self.file.into_inner().into_std().await;
        Ok(Spooled {
            file,
            digest: self.hasher.finalize().into(),
        })
    }
}

impl Spooled {
    /// Reads it from the beginning.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn reader(&mut self) -> io::Result<BufReader<&File>> {
        self.file.rewind()?;
        Ok(BufReader::with_capacity(64 << 10, &self.file))
    }

    /// The digest in hexadecimal.
    pub fn hex(&self) -> String {
        hex::encode(self.digest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn a_file_comes_out_as_it_went_in_any_number_of_times() {
        let mut spool = Spool::open(&config::Import::default()).unwrap();
        spool.write(b"ab").await.unwrap();
        spool.write(b"c").await.unwrap();
        let mut spooled = spool.finish().await.unwrap();
        // The well-known digest of "abc".
        assert!(spooled.hex().starts_with("ba7816bf8f01cfea"));
        for _ in 0..2 {
            let mut text = String::new();
            spooled.reader().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "abc");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named_with_its_setting() {
        let settings = |folder: &str| config::Import {
            spool_folder: folder.into(),
            ..config::Import::default()
        };
        check(&settings("")).unwrap();
        // Nobody, not even root, makes files there.
        let refused = format!("{:#}", check(&settings("/proc/self")).unwrap_err());
        assert!(
            refused.contains("import.spool_folder") && refused.contains("/proc/self"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_file_beyond_the_limit_is_refused() {
        let settings = config::Import {
            max_file_bytes: 4,
            ..config::Import::default()
        };
        let mut spool = Spool::open(&settings).unwrap();
        spool.write(b"four").await.unwrap();
        let refused = spool.write(b"!").await.unwrap_err();
        assert!(matches!(refused, Error::Invalid(broken) if broken[0].rule == "FILE_TOO_LARGE"));
    }
}
