//! The remittance lines that are not booked are listed, newest first.

use chassis::{
    Facility, PageTokens,
    page::{self, List},
};
use proto::claims::v1::{ListParkedLinesRequest, ListParkedLinesResponse, ParkedReason};

use crate::{
    desk::Desk,
    error::Error,
    matching::Hold,
    store::parked::{self, Filter},
    view,
};

const METHOD: &str = "claims.v1.ClaimService/ListParkedLines";

/// Lists a page of parked lines; a line has less than 2 KiB.
///
/// # Errors
/// When the page token is not this list's.
pub async fn list(
    desk: &Desk,
    pages: &PageTokens,
    facility: &Facility,
    request: ListParkedLinesRequest,
) -> Result<ListParkedLinesResponse, Error> {
    let reason = match request.reason() {
        ParkedReason::Unspecified => None,
        ParkedReason::Early => Some(Hold::Early.as_str()),
        ParkedReason::ForeignSender => Some(Hold::ForeignSender.as_str()),
        ParkedReason::Repeated => Some(Hold::Repeated.as_str()),
    };
    let filter = Filter {
        reason,
        claim_id: Some(request.claim_id).filter(|claim_id| !claim_id.is_empty()),
    };
    let filtered_by = format!("{filter:?}");
    let list = List {
        method: METHOD,
        facility,
        filter: &filtered_by,
    };
    let before: Option<i64> = pages.decode(&list, &request.page_token)?;
    let size = page::size(request.page_size)? as usize;

    let mut tx = desk.database.begin(facility).await?;
    let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let mut lines = parked::list(&mut tx, facility.as_str(), &filter, before, limit).await?;
    tx.rollback().await?;
    let more = lines.len() > size;
    lines.truncate(size);
    let ids: Vec<_> = lines.iter().map(|line| line.id).collect();
    let mut lines: Vec<_> = lines.into_iter().map(view::parked_line).collect();
    let more = page::cut(&mut lines) || more;
    let next_page_token = match ids.get(lines.len().saturating_sub(1)) {
        Some(last) if more => pages.encode(&list, last)?,
        _ => String::new(),
    };
    Ok(ListParkedLinesResponse {
        lines,
        next_page_token,
    })
}
