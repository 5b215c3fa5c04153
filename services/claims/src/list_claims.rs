//! ListClaims: lists claims, newest first.

use chassis::{
    Facility, PageTokens,
    page::{self, Builder, List},
};
use proto::claims::v1::{ListClaimsRequest, ListClaimsResponse};
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    grpc::{
        decode,
        encode::{self, Attachments},
    },
    request::parse_uuid,
    store::{self, Filter},
};

const METHOD: &str = "claims.v1.ClaimService/ListClaims";

/// Lists a page of claims. The attachments of resubmissions are omitted.
///
/// # Errors
/// INVALID_ARGUMENT for a page token of another list.
pub async fn execute(
    app: &App,
    pages: &PageTokens,
    facility: &Facility,
    message: ListClaimsRequest,
) -> Result<ListClaimsResponse, Error> {
    let filter = Filter {
        order_id: (!message.order_id.is_empty())
            .then(|| parse_uuid("order_id", &message.order_id))
            .transpose()?,
        state: decode::state(message.state()),
        payer_id: Some(message.payer_id).filter(|payer| !payer.is_empty()),
    };
    let filter_text = format!("{filter:?}");
    let list = List {
        method: METHOD,
        facility,
        filter: &filter_text,
    };
    let after: Option<Uuid> = pages.decode(&list, &message.page_token)?;
    let size = page::size(message.page_size)? as usize;

    let mut tx = app.database.begin(facility).await?;
    let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let mut ids = store::list_ids(&mut tx, facility.as_str(), &filter, after, limit).await?;
    let has_more = ids.len() > size;
    ids.truncate(size);
    let mut filling = Builder::new(&ids);
    while let Some(ids) = filling.next_keys() {
        let records = store::list(&mut tx, ids).await?;
        filling.add(encode::claims(&mut tx, records, Attachments::Omitted).await?);
    }
    tx.rollback().await?;
    let (claims, is_cut) = filling.finish();
    let next_page_token = match ids.get(claims.len().saturating_sub(1)) {
        Some(last) if has_more || is_cut => pages.encode(&list, last)?,
        _ => String::new(),
    };
    Ok(ListClaimsResponse {
        claims,
        next_page_token,
    })
}
