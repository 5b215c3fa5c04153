//! Reads the ledger.

use std::collections::BTreeMap;

use chassis::{Facility, page};
use money::Currency;
use proto::{google::r#type as google, payment::v1 as wire};
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    grpc::encode,
    store::ledger::{self, AccountSums, Filter},
};

/// Sums every account: of one order or of all, in one currency or in each.
pub async fn get_trial_balance(
    app: &App,
    facility: &Facility,
    order_id: Option<Uuid>,
    currency: Option<&str>,
) -> Result<wire::GetTrialBalanceResponse, Error> {
    let mut tx = app.database.begin(facility).await?;
    let sums = match order_id {
        Some(order_id) => ledger::sum_order(&mut tx, order_id, currency).await?,
        None => ledger::sum_all(&mut tx, currency).await?,
    };
    tx.commit().await?;
    encode_balance(&sums)
}

/// One page of entries, newest first, and the id after which the next page begins.
pub async fn list_entries(
    app: &App,
    facility: &Facility,
    filter: Filter,
    after: Option<i64>,
    size: u32,
) -> Result<(Vec<wire::LedgerEntry>, Option<i64>), Error> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut tx = app.database.begin(facility).await?;
    // One more than requested shows whether there is another page.
    let at_most = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
    let mut found = ledger::list(&mut tx, filter, after, at_most).await?;
    tx.commit().await?;
    let more = found.len() > size;
    found.truncate(size);
    let mut page: Vec<_> = found.iter().map(encode::entry).collect();
    let more = page::truncate(&mut page) || more;
    let last = found.get(page.len().saturating_sub(1));
    let next = last.map(|last| last.id).filter(|_| more);
    Ok((page, next))
}

fn encode_balance(sums: &[AccountSums]) -> Result<wire::GetTrialBalanceResponse, Error> {
    let mut totals: BTreeMap<Currency, i128> = BTreeMap::new();
    let mut accounts = Vec::with_capacity(sums.len());
    for AccountSums {
        account,
        currency,
        debit,
        credit,
    } in sums
    {
        let balance = debit - credit;
        *totals.entry(*currency).or_default() += balance;
        accounts.push(wire::AccountBalance {
            account: encode::account(*account).into(),
            debit: Some(encode_sum(*debit, *currency)?),
            credit: Some(encode_sum(*credit, *currency)?),
            balance: Some(encode_sum(balance, *currency)?),
        });
    }
    Ok(wire::GetTrialBalanceResponse {
        accounts,
        balanced: totals.values().all(|total| *total == 0),
        totals: totals
            .into_iter()
            .map(|(currency, total)| encode_sum(total, currency))
            .collect::<Result<_, Error>>()?,
    })
}

fn encode_sum(minor: i128, currency: Currency) -> Result<google::Money, Error> {
    money::sum_on_wire(minor, currency).map_err(|_| Error::SumTooLarge(currency))
}
