//! `weft dlq groups`: one row for all dead letters that share a fingerprint.

use proto::ops::v1::{DeadLetterGroup, ListDeadLetterGroupsRequest};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    clients::Clients,
    failure::{During as _, Failure},
    globals::Format,
    output::{self, Table, short_name, timestamp},
    paging::{self, Limit},
    service::Service,
};

/// The groups of one service.
#[derive(Default)]
pub(crate) struct Groups {
    /// Largest first.
    pub(crate) rows: Vec<DeadLetterGroup>,
    /// Not all open dead letters were counted.
    partial: bool,
}

/// Fetches the groups of one service; empty if it does not implement dead letters.
pub(crate) async fn fetch(clients: &Clients, service: Service, limit: Limit) -> Result<Groups, Failure> {
    let mut partial = false;
    let listed = paging::collect(limit, async |page_size, page_token| {
        let request = ListDeadLetterGroupsRequest {
            page_size,
            page_token,
        };
        let answer = clients
            .dead_letters(service)
            .list_dead_letter_groups(clients.untracked_request(request)?)
            .await;
        let page = answer
            .during("ops.v1.DeadLetterService/ListDeadLetterGroups")?
            .into_inner();
        partial = page.partial;
        Ok((page.groups, page.next_page_token))
    });
    match listed.await {
        Ok(listed) => Ok(Groups {
            rows: listed.rows,
            partial,
        }),
        Err(Failure::Call(call)) if call.status.code() == Code::Unimplemented => Ok(Groups::default()),
        Err(failure) => Err(failure),
    }
}

pub(crate) async fn list(clients: &Clients, format: Format, limit: Limit) -> Result<(), Failure> {
    clients.check_timeout::<ListDeadLetterGroupsRequest>()?;
    let (mut found, mut partial) = (Vec::new(), Vec::new());
    for service in Service::ALL {
        let groups = fetch(clients, service, limit).await?;
        partial.extend(groups.partial.then_some(service.name()));
        found.extend(groups.rows.into_iter().map(|group| (service, group)));
    }
    found.sort_by_key(|(_, group)| std::cmp::Reverse(group.count));
    limit.truncate(&mut found, false);
    if format == Format::Json {
        let rows: Result<Vec<Value>, Failure> = found
            .iter()
            .map(|(service, group)| Ok(json!({"service": service.name(), "group": output::json(group)?})))
            .collect();
        return output::print_json(&json!({"groups": rows?, "partial": !partial.is_empty()}));
    }
    let heading = [
        "FINGERPRINT",
        "SERVICE",
        "CONSUMER",
        "EVENT",
        "WHY",
        ">COUNT",
        ">BEHIND THEM",
        "OLDEST",
        "BACK SINCE",
        "MESSAGE",
    ];
    let mut table = Table::new(heading, "no dead letters are open");
    for (service, group) in &found {
        table.row([
            group.fingerprint.clone(),
            service.name().to_owned(),
            group.consumer.clone(),
            group.event_type.clone(),
            format!(
                "{} {}",
                short_name(group.error_class().as_str_name()),
                group.error_code
            ),
            group.count.to_string(),
            group.parked_count.to_string(),
            timestamp(group.oldest_time.as_ref()),
            regression(&group.resolved_before_version, &group.handler_version),
            group.sample_message.clone(),
        ]);
    }
    print!("{table}");
    if !partial.is_empty() {
        eprintln!(
            "more than 10,000 dead letters are open in {}: only the newest 10,000 are counted",
            partial.join(" and ")
        );
    }
    if let Some((_, group)) = found.first() {
        eprintln!("next: weft dlq show {}", group.sample_dead_letter_id);
        eprintln!("  or: weft dlq replay --group {} --canary", group.fingerprint);
    }
    Ok(())
}

/// `0.2.0 (resolved in 0.1.0)`; empty if the group was never resolved.
pub(crate) fn regression(resolved_in: &str, back_in: &str) -> String {
    if resolved_in.is_empty() {
        String::new()
    } else {
        format!("{back_in} (resolved in {resolved_in})")
    }
}
