//! A database URL that does not print its password.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};
use sqlx::postgres::PgConnectOptions;

/// `postgres://user:password@host:port/database`. Printed with the password masked.
#[derive(Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
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

    /// How to connect there.
    ///
    /// # Errors
    /// When it is not a PostgreSQL URL.
    pub fn connect_options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        // PgBouncer refuses a session that names extra_float_digits; since PostgreSQL 12 its default is exact.
        Ok(PgConnectOptions::from_str(&self.0)?.extra_float_digits(None))
    }

    /// The role that it connects as.
    ///
    /// # Errors
    /// When it is not a PostgreSQL URL.
    pub fn user(&self) -> Result<String, sqlx::Error> {
        Ok(self.connect_options()?.get_username().to_owned())
    }

    fn masked(&self) -> String {
        let authority = self.0.find("://").map_or(0, |at| at + 3);
        let end = self.0[authority..]
            .find(['/', '?'])
            .map_or(self.0.len(), |at| authority + at);
        let mut masked = match self.0[authority..end].rsplit_once('@') {
            Some((user, host)) => {
                let user = user
                    .split_once(':')
                    .map_or(user.to_owned(), |(user, _)| format!("{user}:***"));
                format!("{}{user}@{host}{}", &self.0[..authority], &self.0[end..])
            }
            None => self.0.clone(),
        };
        if let Some(at) = masked.find("password=") {
            let start = at + "password=".len();
            let end = masked[start..].find('&').map_or(masked.len(), |at| start + at);
            masked.replace_range(start..end, "***");
        }
        masked
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_masked_wherever_it_stands() {
        for (url, shown) in [
            ("postgres://app:s3c@h:1/db", "postgres://app:***@h:1/db"),
            ("postgres://app:a@b@h/db", "postgres://app:***@h/db"),
            ("postgres://app@h/db", "postgres://app@h/db"),
            (
                "postgres://h/db?user=app&password=s3c&sslmode=disable",
                "postgres://h/db?user=app&password=***&sslmode=disable",
            ),
        ] {
            assert_eq!(format!("{:?}", DatabaseUrl::new(url)), shown);
        }
    }
}
