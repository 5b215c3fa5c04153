//! Reads of the ledger.

use std::collections::BTreeMap;

use chassis::{Facility, page};
use money::Currency;
use proto::{google::r#type as google, payment::v1 as wire};
use uuid::Uuid;

use crate::{
    desk::Desk,
    error::Error,
    store::ledger::{self, Filter, Sums},
    wire::{account, entry},
};

/// Sums every account, of one order or of all, in one currency or in each.
pub async fn trial_balance(
    desk: &Desk,
    facility: &Facility,
    order_id: Option<Uuid>,
    currency: Option<&str>,
) -> Result<wire::GetTrialBalanceResponse, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let sums = match order_id {
        Some(order_id) => ledger::sums_of_order(&mut tx, order_id, currency).await?,
        None => ledger::sums(&mut tx, currency).await?,
    };
    tx.commit().await?;
    balance(&sums)
}

/// One page of entries, newest first, and the number that the next one begins after.
pub async fn list_entries(
    desk: &Desk,
    facility: &Facility,
    filter: Filter,
    after: Option<i64>,
    size: u32,
) -> Result<(Vec<wire::LedgerEntry>, Option<i64>), Error> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut tx = desk.database.begin(facility).await?;
    // One more than asked for tells whether there is another page.
    let at_most = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
    let mut found = ledger::list(&mut tx, filter, after, at_most).await?;
    tx.commit().await?;
    let more = found.len() > size;
    found.truncate(size);
    let mut page: Vec<_> = found.iter().map(entry).collect();
    let more = page::cut(&mut page) || more;
    let last = found.get(page.len().saturating_sub(1));
    let next = last.map(|last| last.id).filter(|_| more);
    Ok((page, next))
}

fn balance(sums: &[Sums]) -> Result<wire::GetTrialBalanceResponse, Error> {
    let mut totals: BTreeMap<Currency, i128> = BTreeMap::new();
    let mut accounts = Vec::with_capacity(sums.len());
    for Sums {
        account: of,
        currency,
        debit,
        credit,
    } in sums
    {
        let balance = debit - credit;
        *totals.entry(*currency).or_default() += balance;
        accounts.push(wire::AccountBalance {
            account: account(*of).into(),
            debit: Some(on_wire(*debit, *currency)?),
            credit: Some(on_wire(*credit, *currency)?),
            balance: Some(on_wire(balance, *currency)?),
        });
    }
    Ok(wire::GetTrialBalanceResponse {
        accounts,
        balanced: totals.values().all(|total| *total == 0),
        totals: totals
            .into_iter()
            .map(|(currency, total)| on_wire(total, currency))
            .collect::<Result<_, Error>>()?,
    })
}

fn on_wire(minor: i128, currency: Currency) -> Result<google::Money, Error> {
    money::sum_on_wire(minor, currency).map_err(|_| Error::SumTooLarge(currency))
}
