//! `weft remittance parked|book|discard`: lists and resolves remittance lines that are not booked.

use clap::{Args, ValueEnum};
use proto::claims::v1::{
    Claim, GetClaimResponse, ListParkedLinesRequest, ListParkedLinesResponse, ParkedLine, ParkedReason,
    ParkedResolution, ResolveParkedLineRequest,
};

use crate::{
    clients::Clients,
    failure::{During as _, Failure},
    globals::Format,
    output::{self, Table, money},
    paging::{self, Limit},
};

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only lines that wait for this reason
    #[arg(long, value_enum)]
    reason: Option<Reason>,
    /// Only lines of this claim: the facility's number of it
    #[arg(long)]
    claim: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reason {
    /// The claim, or its activity, has not been filed
    Early,
    /// The sender is not the claim's payer
    ForeignSender,
    /// It came in an earlier file already
    Repeated,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveArguments {
    /// The line's number in `weft remittance parked`
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    line: i64,
    /// Why
    #[arg(long)]
    reason: String,
}

pub(crate) async fn list(clients: &Clients, format: Format, arguments: ListArguments) -> Result<(), Failure> {
    let reason = match arguments.reason {
        None => ParkedReason::Unspecified,
        Some(Reason::Early) => ParkedReason::Early,
        Some(Reason::ForeignSender) => ParkedReason::ForeignSender,
        Some(Reason::Repeated) => ParkedReason::Repeated,
    };
    let filtered = arguments.reason.is_some() || arguments.claim.is_some();
    let listed = paging::collect(arguments.limit, async |page_size, page_token| {
        let request = ListParkedLinesRequest {
            page_size,
            page_token,
            reason: reason.into(),
            claim_id: arguments.claim.clone().unwrap_or_default(),
        };
        let answer = clients
            .claims()
            .list_parked_lines(clients.request(request)?)
            .await;
        let page = answer
            .during("claims.v1.ClaimService/ListParkedLines")?
            .into_inner();
        Ok((page.lines, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        let response = ListParkedLinesResponse {
            lines: listed.rows,
            next_page_token: listed.next_page_token,
        };
        return output::print_json(&output::json(&response)?);
    }
    let heading = [
        "LINE",
        "WAITS FOR",
        "NUMBER",
        "ACTIVITY",
        ">AMOUNT",
        "DENIAL",
        "REFERENCE",
        "SENDER",
        "FILE",
    ];
    let mut table = Table::new(heading, output::no_rows("parked lines", filtered));
    listed.rows.iter().for_each(|line| table.row(row(line)));
    print!("{table}");
    listed.mention_more();
    Ok(())
}

fn row(parked: &ParkedLine) -> [String; 9] {
    let waits_for = match parked.reason() {
        ParkedReason::Unspecified => "?",
        ParkedReason::Early => "its claim",
        ParkedReason::ForeignSender => "a decision: another payer's",
        ParkedReason::Repeated => "a decision: in an earlier file",
    };
    let line = parked.line.clone().unwrap_or_default();
    [
        parked.id.to_string(),
        waits_for.to_owned(),
        format!("{}/{}", parked.provider_id, parked.claim_id),
        line.activity_id,
        money(line.payment.as_ref()),
        line.denial_code,
        line.payment_reference,
        parked.sender_id.clone(),
        line.file_name,
    ]
}

/// Books or discards a parked line, and prints the claim on which it was booked.
pub(crate) async fn resolve(
    clients: &Clients,
    format: Format,
    arguments: ResolveArguments,
    resolution: ParkedResolution,
) -> Result<(), Failure> {
    let request = ResolveParkedLineRequest {
        request_id: clients.request_id(),
        id: arguments.line,
        resolution: resolution.into(),
        reason: arguments.reason,
    };
    let answer = clients
        .claims()
        .resolve_parked_line(clients.request(request)?)
        .await;
    let claim: Option<Claim> = answer
        .during("claims.v1.ClaimService/ResolveParkedLine")?
        .into_inner()
        .claim;
    if format == Format::Json {
        return output::print_json(&output::json(&GetClaimResponse { claim })?);
    }
    match claim {
        Some(claim) => println!(
            "line {} is booked: claim {} has {} net paid",
            arguments.line,
            claim.details.map(|details| details.claim_id).unwrap_or_default(),
            money(claim.net_paid.as_ref())
        ),
        None => println!("line {} is discarded: it is not booked", arguments.line),
    }
    Ok(())
}
