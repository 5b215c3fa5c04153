//! Page tokens and sizes (AIP-158). A token is signed and bound to one method, facility and filter: it cannot be
//! forged or used for another list.

mod byte_limit;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;
use tonic::Status;

pub use byte_limit::{Builder, truncate};

use crate::{Facility, status};

/// Page size when the request has none.
pub const DEFAULT_SIZE: u32 = 50;
/// The largest page. The contract refuses larger requests before.
pub const MAX_SIZE: u32 = 1000;

const SIGNATURE_LEN: usize = 16;

/// Signs and verifies page tokens. Cheap to clone.
#[derive(Clone)]
pub struct PageTokens {
    key: Hmac<Sha256>,
}

/// The list that a token is bound to.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    /// `package.Service/Method`.
    pub method: &'a str,
    /// The facility of the rows.
    pub facility: &'a Facility,
    /// The filter, in any stable form.
    pub filter: &'a str,
}

/// The number of rows of a page: the default for 0, at most [`MAX_SIZE`].
///
/// # Errors
/// INVALID_ARGUMENT when it is negative.
pub fn size(requested: i32) -> Result<u32, Status> {
    match u32::try_from(requested) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(requested) => Ok(requested.min(MAX_SIZE)),
        Err(_) => Err(status::invalid_field("page_size", "must not be negative")),
    }
}

impl PageTokens {
    /// Tokens signed with `secret`; all replicas of a service need the same one.
    pub fn new(secret: &[u8]) -> PageTokens {
        PageTokens {
            key: Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"),
        }
    }

    /// The token of the page that begins after `cursor`.
    ///
    /// # Errors
    /// INTERNAL when the cursor cannot be encoded as JSON.
    pub fn encode<C: Serialize>(&self, list: &List<'_>, cursor: &C) -> Result<String, Status> {
        let cursor = serde_json::to_vec(cursor).map_err(|error| status::internal(&error))?;
        let mut token = self.sign(list, &cursor).finalize().into_bytes()[..SIGNATURE_LEN].to_vec();
        token.extend_from_slice(&cursor);
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// The cursor in a token; `None` for the empty token, which requests the first page.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when the signature is wrong, or the token belongs to another list.
    pub fn decode<C: DeserializeOwned>(&self, list: &List<'_>, token: &str) -> Result<Option<C>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let refused = || {
            status::invalid_field(
                "page_token",
                "must be the token of the previous page of this same list",
            )
        };
        let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
        let (signature, cursor) = token.split_at_checked(SIGNATURE_LEN).ok_or_else(refused)?;
        self.sign(list, cursor)
            .verify_truncated_left(signature)
            .map_err(|_| refused())?;
        serde_json::from_slice(cursor).map(Some).map_err(|_| refused())
    }

    /// The length precedes every part, so that two different lists never sign the same bytes.
    fn sign(&self, list: &List<'_>, cursor: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        for part in [
            list.method.as_bytes(),
            list.facility.as_str().as_bytes(),
            list.filter.as_bytes(),
            cursor,
        ] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl std::fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageTokens")
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn facility(name: &str) -> Facility {
        Facility::new(name).unwrap()
    }

    #[test]
    fn a_token_belongs_to_one_method_facility_and_filter() {
        let tokens = PageTokens::new(b"secret");
        let (ours, theirs) = (facility("F1"), facility("F2"));
        let list = List {
            method: "order.v1.OrderService/ListOrders",
            facility: &ours,
            filter: "state=PENDING",
        };
        let token = tokens.encode(&list, &(5, "x")).unwrap();
        assert_eq!(
            tokens.decode::<(i32, String)>(&list, &token).unwrap(),
            Some((5, "x".to_owned()))
        );
        for other in [
            List {
                method: "order.v1.OrderService/ListSagas",
                ..list
            },
            List {
                facility: &theirs,
                ..list
            },
            List { filter: "", ..list },
        ] {
            let refused = tokens.decode::<(i32, String)>(&other, &token).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        assert!(
            PageTokens::new(b"other")
                .decode::<(i32, String)>(&list, &token)
                .is_err()
        );
    }

    #[test]
    fn any_changed_or_shortened_token_is_refused() {
        let tokens = PageTokens::new(b"secret");
        let facility = facility("F1");
        let list = List {
            method: "m",
            facility: &facility,
            filter: "",
        };
        let token = tokens.encode(&list, &7).unwrap();
        assert_eq!(tokens.decode::<i32>(&list, "").unwrap(), None);
        assert!(tokens.decode::<i32>(&list, &token[..token.len() - 2]).is_err());
        assert!(tokens.decode::<i32>(&list, "AAAA").is_err());
        let flipped = if token.starts_with('A') { "B" } else { "A" };
        assert!(
            tokens
                .decode::<i32>(&list, &format!("{flipped}{}", &token[1..]))
                .is_err()
        );
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(size(0).unwrap(), DEFAULT_SIZE);
        assert_eq!(size(7).unwrap(), 7);
        assert_eq!(size(i32::MAX).unwrap(), MAX_SIZE);
        assert!(size(-1).is_err());
    }
}
