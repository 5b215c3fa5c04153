//! Page tokens: a signed cursor, bound to the method, the facility and the filter it was made for.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::error::Error;

const DEFAULT_SIZE: i32 = 50;
const MAX_SIZE: i32 = 1_000;
const TAG_BYTES: usize = 16;

pub(super) struct Tokens {
    key: Hmac<Sha256>,
}

impl Tokens {
    pub(super) fn new(key: &[u8]) -> Self {
        Self {
            key: Hmac::new_from_slice(key).expect("HMAC takes keys of any length"),
        }
    }

    /// `scope` is everything that must be the same on the next page.
    pub(super) fn encode(&self, scope: &[&str], cursor: &str) -> String {
        let mut token = self.tag(scope, cursor);
        token.extend(cursor.as_bytes());
        hex::encode(token)
    }

    /// `None` for the first page.
    pub(super) fn decode(&self, scope: &[&str], token: &str) -> Result<Option<String>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let invalid = || Error::Invalid {
            field: "page_token",
            problem: "is not a token of this list",
        };
        let bytes = hex::decode(token).map_err(|_| invalid())?;
        let (tag, cursor) = bytes.split_at_checked(TAG_BYTES).ok_or_else(invalid)?;
        let cursor = std::str::from_utf8(cursor).map_err(|_| invalid())?;
        let same = self.mac(scope, cursor).verify_truncated_left(tag);
        same.map(|()| Some(cursor.to_owned())).map_err(|_| invalid())
    }

    fn tag(&self, scope: &[&str], cursor: &str) -> Vec<u8> {
        self.mac(scope, cursor).finalize().into_bytes()[..TAG_BYTES].to_vec()
    }

    fn mac(&self, scope: &[&str], cursor: &str) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        for part in scope.iter().chain([&cursor]) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

/// The number of rows in a page, from the requested size.
pub(super) fn size(requested: i32) -> Result<i64, Error> {
    match requested {
        0 => Ok(DEFAULT_SIZE.into()),
        1..=MAX_SIZE => Ok(requested.into()),
        _ => Err(Error::Invalid {
            field: "page_size",
            problem: "must be 0 to 1000",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_only_for_the_list_it_was_made_for() {
        let tokens = Tokens::new(b"0123456789abcdef");
        let token = tokens.encode(&["list", "al-noor"], "cursor");
        assert_eq!(
            tokens.decode(&["list", "al-noor"], &token).unwrap().as_deref(),
            Some("cursor")
        );
        assert!(tokens.decode(&["list", "other"], &token).is_err());
        assert!(
            tokens
                .decode(&["list", "al-noor"], &token.replace('0', "1"))
                .is_err()
        );
        assert!(
            Tokens::new(b"another key")
                .decode(&["list", "al-noor"], &token)
                .is_err()
        );
    }
}
