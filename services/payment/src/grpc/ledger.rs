//! Serves LedgerService.

use chassis::{
    Identity,
    page::{self, List},
};
use proto::payment::v1::{
    GetTrialBalanceRequest, GetTrialBalanceResponse, ListLedgerEntriesRequest, ListLedgerEntriesResponse,
    ledger_service_server::LedgerService,
};
use tonic::{Request, Response, Status};

use super::{Grpc, decode};
use crate::{
    read_ledger::{get_trial_balance, list_entries},
    store::ledger::Filter,
};

#[tonic::async_trait]
impl LedgerService for Grpc {
    async fn get_trial_balance(
        &self,
        request: Request<GetTrialBalanceRequest>,
    ) -> Result<Response<GetTrialBalanceResponse>, Status> {
        let facility = Identity::from_request(&request)?.facility;
        let message = request.into_inner();
        let order_id = decode::optional_id("order_id", &message.order_id)?;
        let currency = Some(message.currency_code.as_str()).filter(|code| !code.is_empty());
        let balance = get_trial_balance(&self.app, &facility, order_id, currency).await?;
        Ok(Response::new(balance))
    }

    async fn list_ledger_entries(
        &self,
        request: Request<ListLedgerEntriesRequest>,
    ) -> Result<Response<ListLedgerEntriesResponse>, Status> {
        let facility = Identity::from_request(&request)?.facility;
        let message = request.into_inner();
        let filter = Filter {
            order_id: decode::optional_id("order_id", &message.order_id)?,
            account: decode::account(message.account),
        };
        let list = List {
            method: "payment.v1.LedgerService/ListLedgerEntries",
            facility: &facility,
            filter: &format!("order={} account={}", message.order_id, message.account),
        };
        let after: Option<i64> = self.pages.decode(&list, &message.page_token)?;
        let size = page::size(message.page_size)?;
        let (entries, next) = list_entries(&self.app, &facility, filter, after, size).await?;
        let next = next.map(|next| self.pages.encode(&list, &next)).transpose()?;
        Ok(Response::new(ListLedgerEntriesResponse {
            entries,
            next_page_token: next.unwrap_or_default(),
        }))
    }
}
