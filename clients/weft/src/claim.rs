//! `weft claim …`: lists, shows, resubmits and withdraws claims.

mod show;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use proto::claims::v1::{
    Claim, ClaimDetails, ClaimState, GetClaimRequest, GetClaimResponse, ListClaimsRequest,
    ListClaimsResponse, Resubmission, ResubmissionType, ResubmitClaimRequest, WithdrawClaimRequest,
};
use uuid::Uuid;

use crate::{
    clients::Clients,
    enum_value::EnumValue,
    failure::{During as _, Failure},
    globals::{Format, Globals},
    order_arg::OrderArg,
    output::{self, Table},
    paging::{self, Limit},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a claim, what was paid on it, and every remittance line
    Get {
        /// The claim's id, or the facility's number of it as PROVIDER/CLAIM
        claim: String,
    },
    /// List claims, newest first
    List(ListArguments),
    /// Submit a claim again
    Resubmit(ResubmitArguments),
    /// Take an order's claim out of the process
    Withdraw {
        /// The order's id or reference
        #[arg(long)]
        order: OrderArg,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only the claims of this order
    #[arg(long)]
    order: Option<OrderArg>,
    /// Only claims in this state
    #[arg(long, value_parser = EnumValue::new(ClaimState::as_str_name))]
    state: Option<ClaimState>,
    /// Only claims against this payer
    #[arg(long)]
    payer: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

#[derive(Debug, Args)]
pub(crate) struct ResubmitArguments {
    /// The claim's id, or the facility's number of it as PROVIDER/CLAIM
    claim: String,
    /// Why it is filed again
    #[arg(long = "type", value_enum)]
    kind: Kind,
    /// What was changed or is complained of
    #[arg(long)]
    comment: String,
    /// A supporting document
    #[arg(long, value_name = "FILE")]
    attachment: Option<PathBuf>,
    /// The corrected claim: a file with claims.v1.ClaimDetails in JSON; by default the details stay as they are
    #[arg(long, value_name = "FILE")]
    details: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Correction,
    InternalComplaint,
    Legacy,
    Reconciliation,
}

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    let claim = match command {
        Command::List(arguments) => return list(&clients, globals.output, arguments).await,
        Command::Get { claim } => {
            clients.check_timeout::<GetClaimRequest>()?;
            get(&clients, &claim).await?
        }
        Command::Resubmit(arguments) => resubmit(&clients, arguments).await?,
        Command::Withdraw { order, reason } => {
            let request = WithdrawClaimRequest {
                request_id: clients.request_id(),
                order_id: order.resolve_id(&clients).await?,
                reason: reason.unwrap_or_default(),
            };
            let answer = clients.claims().withdraw_claim(clients.request(request)?).await;
            answer
                .during("claims.v1.ClaimService/WithdrawClaim")?
                .into_inner()
                .claim
        }
    };
    if globals.output == Format::Json {
        return output::print_json(&output::json(&GetClaimResponse { claim })?);
    }
    match claim {
        Some(claim) => show::claim(&claim),
        None => println!("no claim had arrived for this order; a late one will be refused"),
    }
    Ok(())
}

async fn get(clients: &Clients, name: &str) -> Result<Option<Claim>, Failure> {
    let answer = clients
        .claims()
        .get_claim(clients.untracked_request(get_request(name)?)?)
        .await;
    Ok(answer
        .during("claims.v1.ClaimService/GetClaim")?
        .into_inner()
        .claim)
}

async fn list(clients: &Clients, format: Format, arguments: ListArguments) -> Result<(), Failure> {
    let filtered = arguments.order.is_some() || arguments.state.is_some() || arguments.payer.is_some();
    let order_id = OrderArg::resolve_optional(arguments.order, clients)
        .await?
        .unwrap_or_default();
    let listed = paging::collect(arguments.limit, async |page_size, page_token| {
        let request = ListClaimsRequest {
            page_size,
            page_token,
            order_id: order_id.clone(),
            state: arguments.state.unwrap_or_default().into(),
            payer_id: arguments.payer.clone().unwrap_or_default(),
        };
        let answer = clients.claims().list_claims(clients.request(request)?).await;
        let page = answer.during("claims.v1.ClaimService/ListClaims")?.into_inner();
        Ok((page.claims, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        let response = ListClaimsResponse {
            claims: listed.rows,
            next_page_token: listed.next_page_token,
        };
        return output::print_json(&output::json(&response)?);
    }
    let heading = [
        "ID",
        "NUMBER",
        "PAYER",
        "STATE",
        ">CYCLE",
        "PAID?",
        ">NET",
        ">NET PAID",
        ">OPEN",
    ];
    let mut table = Table::new(heading, output::no_rows("claims", filtered));
    for claim in &listed.rows {
        table.row(show::row(claim));
    }
    print!("{table}");
    listed.mention_more();
    Ok(())
}

async fn resubmit(clients: &Clients, arguments: ResubmitArguments) -> Result<Option<Claim>, Failure> {
    let kind = match arguments.kind {
        Kind::Correction => ResubmissionType::Correction,
        Kind::InternalComplaint => ResubmissionType::InternalComplaint,
        Kind::Legacy => ResubmissionType::Legacy,
        Kind::Reconciliation => ResubmissionType::Reconciliation,
    };
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let details = arguments
        .details
        .as_ref()
        .map(|path| -> Result<ClaimDetails, Failure> {
            output::from_json(&String::from_utf8_lossy(&read(path)?)).map_err(Failure::Usage)
        });
    let request = ResubmitClaimRequest {
        request_id: clients.request_id(),
        id: get(clients, &arguments.claim).await?.unwrap_or_default().id,
        resubmission: Some(Resubmission {
            r#type: kind.into(),
            comment: arguments.comment,
            attachment: arguments
                .attachment
                .as_ref()
                .map(read)
                .transpose()?
                .unwrap_or_default(),
        }),
        details: details.transpose()?,
    };
    let answer = clients.claims().resubmit_claim(clients.request(request)?).await;
    Ok(answer
        .during("claims.v1.ClaimService/ResubmitClaim")?
        .into_inner()
        .claim)
}

fn get_request(name: &str) -> Result<GetClaimRequest, Failure> {
    if Uuid::parse_str(name).is_ok() {
        return Ok(GetClaimRequest {
            id: name.to_owned(),
            ..GetClaimRequest::default()
        });
    }
    match name.split_once('/') {
        Some((provider, claim)) => Ok(GetClaimRequest {
            provider_id: provider.to_owned(),
            claim_id: claim.to_owned(),
            ..GetClaimRequest::default()
        }),
        None => Err(Failure::Usage(format!(
            "`{name}` is neither a claim's id nor PROVIDER/CLAIM"
        ))),
    }
}
