//! Settings that are never printed in full: secrets, and URLs that may contain one.

use std::{borrow::Cow, fmt};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

const REDACTED: &str = "[redacted]";
const MASK: &str = "***";

/// URL parameters whose values are shown. All others are masked, because it is unknown which ones a server treats
/// as secret.
const SHOWN_PARAMETERS: [&str; 12] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "sslcert",
    "ssl-cert",
    "host",
    "port",
    "dbname",
    "user",
    "application_name",
    "statement-cache-capacity",
];

/// A secret from the configuration; empty means not set. `Debug` and `Serialize` hide it.
#[derive(Clone, Debug, Default)]
pub struct Secret(SecretString);

impl Secret {
    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        !self.expose().is_empty()
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Secret {
        Secret(secret.into())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_set() { REDACTED } else { "" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        text(deserializer).map(Secret::from)
    }
}

/// A URL that may contain a user, a password or a token; empty means not set. `Debug`, `Display` and `Serialize`
/// mask these.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The URL, not checked.
    pub fn new(url: impl Into<String>) -> SecretUrl {
        SecretUrl(url.into())
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// The URL in full.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SecretUrl {
    fn from(url: &str) -> SecretUrl {
        SecretUrl::new(url)
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> SecretUrl {
        SecretUrl(url)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked_url(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SecretUrl, D::Error> {
        // `null` means not set.
        match Value::deserialize(deserializer)? {
            Value::String(url) => Ok(SecretUrl(url)),
            Value::Null => Ok(SecretUrl::default()),
            _ => Err(de::Error::custom("must be text")),
        }
    }
}

/// Reads text.
///
/// # Errors
/// When it is not text. The error does not repeat the value.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        _ => Err(de::Error::custom("must be text")),
    }
}

/// The URL for display: without password, without a token as the user, without values of unknown parameters. If
/// the URL is ambiguous, only the scheme is shown.
pub fn masked_url(url: &str) -> Cow<'_, str> {
    if url.is_empty() {
        return Cow::Borrowed("");
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Cow::Borrowed(MASK);
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    // A password that is not percent-encoded may contain a delimiter; it then ends after that.
    if behind.contains('@') || scheme.contains('@') {
        return Cow::Owned(format!("{scheme}://{MASK}"));
    }
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => format!("{}@{host}", masked_user(scheme, user)),
        None => authority.to_owned(),
    };
    let (path, query) = match behind.split_once(['?', '#']) {
        Some((path, query)) => (path, Some(query)),
        None => (behind, None),
    };
    let query = query.map_or(String::new(), |query| format!("?{}", masked_query(query)));
    Cow::Owned(format!("{scheme}://{authority}{path}{query}"))
}

/// A user without a password is a role for PostgreSQL, and a token for NATS and others.
fn masked_user(scheme: &str, user: &str) -> String {
    match user.split_once(':') {
        Some((name, _)) => format!("{name}:{MASK}"),
        None if scheme.starts_with("postgres") => user.to_owned(),
        None => MASK.to_owned(),
    }
}

fn masked_query(query: &str) -> String {
    let shown = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if SHOWN_PARAMETERS.contains(&name) && !pair.contains('#') => pair.to_owned(),
        Some((name, _)) => format!("{name}={MASK}"),
        None => MASK.to_owned(),
    };
    query.split('&').map(shown).collect::<Vec<_>>().join("&")
}

/// The text for display: each URL in it is masked, or the whole text if the end of a URL is ambiguous.
pub fn masked(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut in_url = false;
    for part in text.split_inclusive(is_separator) {
        let bare = part.strip_suffix(is_separator).unwrap_or(part);
        if bare.contains("://") {
            shown.push_str(&masked_inside(bare));
        } else if in_url && bare.contains('@') {
            // The rest of a password that contains a separator.
            return Cow::Borrowed(MASK);
        } else {
            shown.push_str(bare);
        }
        in_url |= bare.contains("://");
        shown.push_str(&part[bare.len()..]);
    }
    Cow::Owned(shown)
}

fn is_separator(c: char) -> bool {
    matches!(c, ',' | ';' | '"' | '\'') || c.is_whitespace()
}

/// Masks a URL that follows a word, as in `static:http://u:p@h:1`.
fn masked_inside(text: &str) -> String {
    let scheme = text.find("://").unwrap_or(0);
    let begins = text[..scheme]
        .rfind(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'))
        .map_or(0, |at| at + 1);
    format!("{}{}", &text[..begins], masked_url(&text[begins..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_of_any_form_are_masked() {
        for (url, shown) in [
            ("postgres://app:s3c@h:1/db", "postgres://app:***@h:1/db"),
            ("postgres://app:a@b@h/db", "postgres://app:***@h/db"),
            ("postgres://app@h/db", "postgres://app@h/db"),
            ("postgres://u:se/cret@h", "postgres://***"),
            ("postgres://u:se?cr@et@h", "postgres://***"),
            ("postgres://u:se#cret@h/db", "postgres://***"),
            ("nats://u:secret@h", "nats://u:***@h"),
            ("nats://token@h:4222", "nats://***@h:4222"),
            ("https://u:secret@idp/jwks", "https://u:***@idp/jwks"),
            ("https://idp/jwks?key=abc&v", "https://idp/jwks?key=***&***"),
            ("https://idp/jwks#abc", "https://idp/jwks?***"),
            (
                "postgres://h/db?user=app&password=s3c&sslmode=disable&password=again",
                "postgres://h/db?user=app&password=***&sslmode=disable&password=***",
            ),
            ("postgres://h/db?pass%77ord=s3c", "postgres://h/db?pass%77ord=***"),
            ("postgres://h/db?password=x@y", "postgres://***"),
            ("host=h password=s3c", "***"),
            ("", ""),
        ] {
            assert_eq!(masked_url(url), shown, "{url}");
            assert_eq!(format!("{:?}", SecretUrl::new(url)), shown);
        }
    }

    #[test]
    fn urls_in_other_texts_are_masked_too() {
        for (text, shown) in [
            ("nothing to hide", "nothing to hide"),
            (
                "static:http://u:p@h:1,http://b:2;zone=x",
                "static:http://u:***@h:1,http://b:2;zone=x",
            ),
            ("http://a,http://u:a,b@h", "***"),
            ("dns:http://payment:7102", "dns:http://payment:7102"),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }
}
