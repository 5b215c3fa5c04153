//! ListParkedLines: lists remittance lines that are not booked, newest first.

use chassis::{
    Facility, PageTokens,
    page::{self, List},
};
use proto::claims::v1::{ListParkedLinesRequest, ListParkedLinesResponse, ParkedReason};

use crate::{
    app::App,
    error::Error,
    grpc::encode,
    matching::HoldReason,
    store::parked::{self, Filter},
};

const METHOD: &str = "claims.v1.ClaimService/ListParkedLines";

/// Lists a page of parked lines. A line takes less than 2 KiB.
///
/// # Errors
/// INVALID_ARGUMENT for a page token of another list.
pub async fn execute(
    app: &App,
    pages: &PageTokens,
    facility: &Facility,
    message: ListParkedLinesRequest,
) -> Result<ListParkedLinesResponse, Error> {
    let reason = match message.reason() {
        ParkedReason::Unspecified => None,
        ParkedReason::Early => Some(HoldReason::Early.as_str()),
        ParkedReason::ForeignSender => Some(HoldReason::ForeignSender.as_str()),
        ParkedReason::Repeated => Some(HoldReason::Repeated.as_str()),
    };
    let filter = Filter {
        reason,
        claim_id: Some(message.claim_id).filter(|claim_id| !claim_id.is_empty()),
    };
    let filter_text = format!("{filter:?}");
    let list = List {
        method: METHOD,
        facility,
        filter: &filter_text,
    };
    let before: Option<i64> = pages.decode(&list, &message.page_token)?;
    let size = page::size(message.page_size)? as usize;

    let mut tx = app.database.begin(facility).await?;
    let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let mut lines = parked::list(&mut tx, facility.as_str(), &filter, before, limit).await?;
    tx.rollback().await?;
    let has_more = lines.len() > size;
    lines.truncate(size);
    let ids: Vec<_> = lines.iter().map(|line| line.id).collect();
    let mut lines: Vec<_> = lines.into_iter().map(encode::parked_line).collect();
    let has_more = page::truncate(&mut lines) || has_more;
    let next_page_token = match ids.get(lines.len().saturating_sub(1)) {
        Some(last) if has_more => pages.encode(&list, last)?,
        _ => String::new(),
    };
    Ok(ListParkedLinesResponse {
        lines,
        next_page_token,
    })
}
