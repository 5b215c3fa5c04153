//! The tenant.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A tenant's identifier: 1 to 64 of `A-Z a-z 0-9 . _ -`. Every business row belongs to one. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Facility(Arc<str>);

/// The identifier has an invalid length or character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a facility must be 1 to 64 of A-Z a-z 0-9 . _ -")]
pub struct InvalidFacility;

impl Facility {
    /// The longest identifier, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Validates an identifier.
    ///
    /// # Errors
    /// When its length or a character is invalid.
    pub fn new(name: impl AsRef<str>) -> Result<Facility, InvalidFacility> {
        let name = name.as_ref();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > Facility::MAX_LEN || !name.bytes().all(allowed) {
            return Err(InvalidFacility);
        }
        Ok(Facility(Arc::from(name)))
    }

    /// The identifier as it is stored and sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Facility {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Facility {
    type Err = InvalidFacility;

    fn from_str(name: &str) -> Result<Facility, InvalidFacility> {
        Facility::new(name)
    }
}

impl TryFrom<String> for Facility {
    type Error = InvalidFacility;

    fn try_from(name: String) -> Result<Facility, InvalidFacility> {
        Facility::new(name)
    }
}

impl From<Facility> for String {
    fn from(facility: Facility) -> String {
        facility.0.as_ref().to_owned()
    }
}
