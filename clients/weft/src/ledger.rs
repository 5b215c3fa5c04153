//! `weft ledger …`: the trial balance and the entries of the ledger.

use clap::Subcommand;
use proto::payment::v1::{
    GetTrialBalanceRequest, GetTrialBalanceResponse, LedgerAccount, LedgerCause, ListLedgerEntriesRequest,
    ListLedgerEntriesResponse,
};

use crate::{
    clients::Clients,
    enum_value::EnumValue,
    failure::{During as _, Failure},
    globals::{self, Format, Globals},
    order_arg::OrderArg,
    output::{self, Table, money, short_name, timestamp},
    paging::{self, Limit},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sum every account; exit code 1 when they do not sum to zero
    Balance {
        /// Only the entries of this order, by its id or reference
        #[arg(long)]
        order: Option<OrderArg>,
        /// Only this currency, ISO 4217
        #[arg(long, value_parser = globals::parse_currency)]
        currency: Option<String>,
    },
    /// List entries, newest first
    Entries {
        /// Only the entries of this order, by its id or reference
        #[arg(long)]
        order: Option<OrderArg>,
        /// Only this account
        #[arg(long, value_parser = EnumValue::new(LedgerAccount::as_str_name))]
        account: Option<LedgerAccount>,
        #[command(flatten)]
        limit: Limit,
    },
}

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    match command {
        Command::Balance { order, currency } => {
            let order_id = OrderArg::resolve_optional(order, &clients)
                .await?
                .unwrap_or_default();
            let empty = match (order_id.is_empty(), currency.is_none()) {
                (true, true) => EMPTY,
                (true, false) => "the ledger has no entries in this currency",
                (false, true) => "the ledger has no entries of this order",
                (false, false) => "the ledger has no entries of this order in this currency",
            };
            let balance = trial_balance(
                &clients,
                GetTrialBalanceRequest {
                    order_id,
                    currency_code: currency.unwrap_or_default(),
                },
            )
            .await?;
            match globals.output {
                Format::Json => output::print_json(&output::json(&balance)?)?,
                Format::Table => print!("{}", show_balance(&balance, empty)),
            }
            if balance.balanced {
                Ok(())
            } else {
                Err(Failure::Other(anyhow::anyhow!("the ledger does not balance")))
            }
        }
        Command::Entries {
            order,
            account,
            limit,
        } => {
            let order = OrderArg::resolve_optional(order, &clients).await?;
            entries(&clients, globals.output, order, account, limit).await
        }
    }
}

pub(crate) async fn trial_balance(
    clients: &Clients,
    request: GetTrialBalanceRequest,
) -> Result<GetTrialBalanceResponse, Failure> {
    let answer = clients
        .ledger()
        .get_trial_balance(clients.request(request)?)
        .await;
    Ok(answer
        .during("payment.v1.LedgerService/GetTrialBalance")?
        .into_inner())
}

/// The text for a ledger without any entries.
pub(crate) const EMPTY: &str = "the ledger is empty";

/// The trial balance as a table; `empty` replaces a table without rows.
pub(crate) fn show_balance(balance: &GetTrialBalanceResponse, empty: &'static str) -> String {
    let mut table = Table::new(["ACCOUNT", ">DEBIT", ">CREDIT", ">BALANCE"], empty);
    for account in &balance.accounts {
        table.row([
            short_name(
                LedgerAccount::try_from(account.account)
                    .unwrap_or_default()
                    .as_str_name(),
            ),
            money(account.debit.as_ref()),
            money(account.credit.as_ref()),
            money(account.balance.as_ref()),
        ]);
    }
    for total in &balance.totals {
        table.row(["sum".to_owned(), String::new(), String::new(), money(Some(total))]);
    }
    table.to_string()
}

async fn entries(
    clients: &Clients,
    format: Format,
    order: Option<String>,
    account: Option<LedgerAccount>,
    limit: Limit,
) -> Result<(), Failure> {
    let listed = paging::collect(limit, async |page_size, page_token| {
        let request = ListLedgerEntriesRequest {
            page_size,
            page_token,
            order_id: order.clone().unwrap_or_default(),
            account: account.unwrap_or_default().into(),
        };
        let answer = clients
            .ledger()
            .list_ledger_entries(clients.request(request)?)
            .await;
        let page = answer
            .during("payment.v1.LedgerService/ListLedgerEntries")?
            .into_inner();
        Ok((page.entries, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        let response = ListLedgerEntriesResponse {
            entries: listed.rows,
            next_page_token: listed.next_page_token,
        };
        return output::print_json(&output::json(&response)?);
    }
    let mut table = Table::new(
        ["BOOKED", "CAUSE", "ACCOUNT", ">AMOUNT", "ORDER", "TRANSACTION"],
        output::no_rows("entries", order.is_some() || account.is_some()),
    );
    for entry in &listed.rows {
        table.row([
            timestamp(entry.create_time.as_ref()),
            short_name(
                LedgerCause::try_from(entry.cause)
                    .unwrap_or_default()
                    .as_str_name(),
            ),
            short_name(
                LedgerAccount::try_from(entry.account)
                    .unwrap_or_default()
                    .as_str_name(),
            ),
            money(entry.amount.as_ref()),
            entry.order_id.clone(),
            entry.transaction_id.clone(),
        ]);
    }
    print!("{table}");
    listed.mention_more();
    Ok(())
}
