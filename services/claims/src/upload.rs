//! An upload is written to an unnamed temporary file until it is complete, because a file is identified by its
//! digest and nothing of an invalid one may be booked. The operating system removes the file when the process
//! ends, even by a crash.

use std::{
    fs::File,
    io::{self, BufReader, Seek, Write as _},
};

use anyhow::Context as _;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::{config, error::Error, rules::Violation};

/// A file that is being received.
#[derive(Debug)]
pub struct Upload {
    file: BufWriter<tokio::fs::File>,
    hasher: Sha256,
    remaining: u64,
    limit: u64,
}

/// A file that was received completely.
#[derive(Debug)]
pub struct UploadedFile {
    file: File,
    /// The SHA-256 of its content.
    pub digest: [u8; 32],
}

/// Checks at startup that uploads can be written, so that a service that could receive none does not start.
///
/// # Errors
/// When the folder cannot be written to.
pub fn check_folder(settings: &config::Import) -> anyhow::Result<()> {
    let folder = if settings.spool_folder.as_os_str().is_empty() {
        std::env::temp_dir()
    } else {
        settings.spool_folder.clone()
    };
    let written = tempfile::tempfile_in(&folder).and_then(|mut file| file.write_all(b"spool"));
    written.with_context(|| {
        let folder = folder.display();
        format!(
            "import.spool_folder: remittance files cannot be stored in {folder}; set it to a writable folder"
        )
    })
}

impl Upload {
    /// Creates an empty file.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn create(settings: &config::Import) -> Result<Upload, Error> {
        let file = if settings.spool_folder.as_os_str().is_empty() {
            tempfile::tempfile()?
        } else {
            tempfile::tempfile_in(&settings.spool_folder)?
        };
        let file = BufWriter::new(tokio::fs::File::from_std(file));
        let limit = settings.max_file_bytes;
        Ok(Upload {
            file,
            hasher: Sha256::new(),
            remaining: limit,
            limit,
        })
    }

    /// Adds a chunk.
    ///
    /// # Errors
    /// [`Error::Invalid`] with FILE_TOO_LARGE above the size limit.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let Some(remaining) = self.remaining.checked_sub(chunk.len() as u64) else {
            let message = format!("the file has more than {} bytes", self.limit);
            return Err(Error::Invalid(vec![Violation::new(
                "FILE_TOO_LARGE",
                "chunk",
                message,
            )]));
        };
        self.remaining = remaining;
        self.hasher.update(chunk);
        Ok(self.file.write_all(chunk).await?)
    }

    /// Flushes the file and computes its digest.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn finish(mut self) -> Result<UploadedFile, Error> {
        self.file.flush().await?;
        let file = self.file.into_inner().into_std().await;
        Ok(UploadedFile {
            file,
            digest: self.hasher.finalize().into(),
        })
    }
}

impl UploadedFile {
    /// Reads the file from the beginning.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn reader(&mut self) -> io::Result<BufReader<&File>> {
        self.file.rewind()?;
        Ok(BufReader::with_capacity(64 << 10, &self.file))
    }

    /// The digest in hexadecimal.
    pub fn hex_digest(&self) -> String {
        hex::encode(self.digest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn a_file_can_be_read_repeatedly_as_it_was_written() {
        let mut upload = Upload::create(&config::Import::default()).unwrap();
        upload.write(b"ab").await.unwrap();
        upload.write(b"c").await.unwrap();
        let mut file = upload.finish().await.unwrap();
        // The well-known digest of "abc".
        assert!(file.hex_digest().starts_with("ba7816bf8f01cfea"));
        for _ in 0..2 {
            let mut text = String::new();
            file.reader().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "abc");
        }
    }

    #[test]
    fn an_unwritable_folder_is_reported_with_its_setting() {
        let settings = |folder: &str| config::Import {
            spool_folder: folder.into(),
            ..config::Import::default()
        };
        check_folder(&settings("")).unwrap();
        // Not even root can create files there.
        let refused = format!("{:#}", check_folder(&settings("/proc/self")).unwrap_err());
        assert!(
            refused.contains("import.spool_folder") && refused.contains("/proc/self"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_file_above_the_size_limit_is_refused() {
        let settings = config::Import {
            max_file_bytes: 4,
            ..config::Import::default()
        };
        let mut upload = Upload::create(&settings).unwrap();
        upload.write(b"four").await.unwrap();
        let refused = upload.write(b"!").await.unwrap_err();
        assert!(matches!(refused, Error::Invalid(broken) if broken[0].rule == "FILE_TOO_LARGE"));
    }
}
