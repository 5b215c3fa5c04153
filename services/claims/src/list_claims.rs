//! Claims are listed, newest first.

use chassis::{
    Facility, PageTokens,
    page::{self, List},
};
use prost::Message;
use proto::claims::v1::{ListClaimsRequest, ListClaimsResponse};
use uuid::Uuid;

use crate::{
    desk::Desk,
    error::Error,
    grpc::uuid,
    store::{self, Filter},
    view::{self, Attachments},
};

const METHOD: &str = "claims.v1.ClaimService/ListClaims";

/// A page ends early when it gets larger than so many bytes: clients take messages of 4 MiB.
const PAGE_BYTES: usize = 2 << 20;

/// Lists a page of claims. The documents of resubmissions are left out.
///
/// # Errors
/// When the page token is not this list's.
pub async fn list(
    desk: &Desk,
    pages: &PageTokens,
    facility: &Facility,
    request: ListClaimsRequest,
) -> Result<ListClaimsResponse, Error> {
    let filter = Filter {
        order_id: (!request.order_id.is_empty())
            .then(|| uuid("order_id", &request.order_id))
            .transpose()?,
        state: view::state_of(request.state()),
        payer_id: Some(request.payer_id).filter(|payer| !payer.is_empty()),
    };
    let filtered_by = format!("{filter:?}");
    let list = List {
        method: METHOD,
        facility,
        filter: &filtered_by,
    };
    let after: Option<Uuid> = pages.decode(&list, &request.page_token)?;
    let size = page::size(request.page_size)? as usize;

    let mut tx = desk.database.begin(facility).await?;
    let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let mut ids = store::list(&mut tx, facility.as_str(), &filter, after, limit).await?;
    let mut more = ids.len() > size;
    ids.truncate(size);
    let records = store::read(&mut tx, &ids).await?;
    let mut claims = view::claims(&mut tx, records, Attachments::LeftOut).await?;
    tx.rollback().await?;

    let mut bytes = 0;
    let fitting = claims.iter().take_while(|claim| {
        bytes += claim.encoded_len();
        bytes <= PAGE_BYTES
    });
    // One claim always fits: a page without any would never end.
    let fitting = fitting.count().max(1);
    more |= claims.len() > fitting;
    claims.truncate(fitting);
    let next_page_token = match ids.get(claims.len().saturating_sub(1)) {
        Some(last) if more => pages.encode(&list, last)?,
        _ => String::new(),
    };
    Ok(ListClaimsResponse {
        claims,
        next_page_token,
    })
}
