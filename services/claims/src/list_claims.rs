//! Claims are listed, newest first.

use chassis::{
    Facility, PageTokens,
    page::{self, Filling, List},
};
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
    let more = ids.len() > size;
    ids.truncate(size);
    let mut filling = Filling::new(&ids);
    while let Some(ids) = filling.next_keys() {
        let records = store::read(&mut tx, ids).await?;
        filling.add(view::claims(&mut tx, records, Attachments::LeftOut).await?);
    }
    tx.rollback().await?;
    let (claims, is_cut) = filling.finish();
    let next_page_token = match ids.get(claims.len().saturating_sub(1)) {
        Some(last) if more || is_cut => pages.encode(&list, last)?,
        _ => String::new(),
    };
    Ok(ListClaimsResponse {
        claims,
        next_page_token,
    })
}
