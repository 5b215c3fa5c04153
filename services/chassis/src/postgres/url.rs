//! A database URL that does not print its password.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::postgres::PgConnectOptions;
use weft_server::secret::{masked_url, text};

/// `postgres://user:password@host:port/database`. Printed with the password masked.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL, not checked.
    pub fn new(url: impl Into<String>) -> DatabaseUrl {
        DatabaseUrl(url.into())
    }

    /// The URL with its password.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The connection options.
    ///
    /// # Errors
    /// When it is not a PostgreSQL URL.
    pub fn connect_options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        // PgBouncer rejects sessions that set extra_float_digits; its default is exact since PostgreSQL 12.
        Ok(PgConnectOptions::from_str(&self.0)?.extra_float_digits(None))
    }

    /// The role in the URL.
    ///
    /// # Errors
    /// When it is not a PostgreSQL URL.
    pub fn user(&self) -> Result<String, sqlx::Error> {
        Ok(self.connect_options()?.get_username().to_owned())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked_url(&self.0))
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&masked_url(&self.0))
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DatabaseUrl, D::Error> {
        text(deserializer).map(DatabaseUrl)
    }
}
