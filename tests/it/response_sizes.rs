//! Everything that was accepted can be read by a client with the default message limit of 4 MiB, one by one and in
//! lists.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};
use proto::claims::v1::{
    ClaimDetails, GetClaimAttachmentRequest, Observation, Resubmission, ResubmissionType,
    ResubmitClaimRequest,
};
use tests::{Options, Service, Stack, raw_codec::Raw};
use tonic::{Code, Request, client::Grpc};

use crate::{
    claims_fixture,
    order_fixture::{FACILITY, Fixture, fresh},
    samples,
    validation::{fields, send, server_of},
};

/// Default maximum message size of gRPC libraries.
const DEFAULT_BOUND: usize = 4 * 1024 * 1024;
/// Lists without pages, bounded by what they list.
const WITHOUT_PAGES: [&str; 2] = ["ListConsumers", "ListHeldMessages"];

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_with_large_attachments_stays_readable_and_so_does_each_attachment() {
    let fixture = claims_fixture::Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    let mut claims = fixture.claims.clone();
    let attachments = [
        vec![1; 100_000],
        vec![2; 2 << 20],
        vec![3; 2 << 20],
        vec![4; 2 << 20],
    ];
    for attachment in &attachments {
        let request = ResubmitClaimRequest {
            request_id: fresh(),
            id: claim.id.clone(),
            resubmission: Some(Resubmission {
                r#type: ResubmissionType::Legacy.into(),
                comment: "with a document".to_owned(),
                attachment: attachment.clone(),
            }),
            details: None,
        };
        claims.resubmit_claim(request).await.unwrap();
    }
    let read = fixture.get(&claim.id).await;
    assert_eq!(read.resubmissions.len(), 4);
    assert_eq!(read.resubmissions[0].attachment, attachments[0]);
    assert!(
        read.resubmissions[1..]
            .iter()
            .all(|again| again.attachment.is_empty())
    );
    assert_eq!(read.attachments_left_out, [3, 4, 5]);
    for (cycle, attachment) in (2..).zip(&attachments) {
        let request = GetClaimAttachmentRequest {
            id: claim.id.clone(),
            cycle,
        };
        let read = claims
            .get_claim_attachment(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(read.attachment, *attachment);
        let elsewhere = fixture
            .elsewhere()
            .get_claim_attachment(request)
            .await
            .unwrap_err();
        assert_eq!(elsewhere.code(), Code::NotFound);
    }
}

/// A claim of about `bytes` bytes.
fn large(claim_id: &str, bytes: usize) -> ClaimDetails {
    let mut details = samples::claim(claim_id);
    let value = "v".repeat(60_000);
    details.activities[0].observations = (0..bytes / value.len())
        .map(|_| Observation {
            r#type: "Text".to_owned(),
            code: "NOTE".to_owned(),
            value: value.clone(),
            value_type: "Text".to_owned(),
        })
        .collect();
    details
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_too_large_to_be_returned_is_refused_with_its_field() {
    let stack = Stack::with(Options::default().only(&[Service::Claims])).await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let service = pool.get_service_by_name("claims.v1.ClaimService").unwrap();
    let prepare = service
        .methods()
        .find(|method| method.name() == "PrepareClaim")
        .unwrap();
    let request = claims_fixture::prepare(large("CLM-1", 3_500_000));
    let refused = send(&stack, &prepare, request.encode_to_vec().into()).await;
    assert_eq!(
        (refused.code(), fields(&refused)),
        (Code::InvalidArgument, vec!["details".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_every_list_fits_into_a_default_client_and_the_pages_reach_the_end() {
    let fixture = Fixture::start().await;
    for _ in 0..8 {
        let mut request = samples::self_pay_order("");
        request.request_id = fresh();
        request.reference = fresh();
        request.lines = (0..1_000).map(|at| samples::line(&format!("C{at}"), 1)).collect();
        request
            .lines
            .iter_mut()
            .for_each(|line| line.description = "d".repeat(500));
        fixture.place(request).await.unwrap();
    }
    for at in 0..4 {
        let request = claims_fixture::prepare(large(&format!("CLM-{at}"), 1_800_000));
        fixture.claims.clone().prepare_claim(request).await.unwrap();
    }
    fill_wide_rows(&fixture.stack).await;
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let mut lists = Vec::new();
    for method in pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
    {
        // Lists without pages: the few consumers of a process, and at most 100 messages without their bodies.
        if method.name().starts_with("List") && !WITHOUT_PAGES.contains(&method.name()) {
            let (pages, items) = read_all(&fixture.stack, &method).await;
            lists.push((method.name().to_owned(), pages, items));
        }
    }
    let of = |name: &str| {
        lists
            .iter()
            .find(|(list, ..)| list == name)
            .map(|(_, pages, items)| (*pages, *items))
            .unwrap()
    };
    assert!(lists.len() >= 7, "{lists:?}");
    let (pages, items) = of("ListOrders");
    assert!(pages > 1 && items == 8, "{lists:?}");
    let (pages, items) = of("ListClaims");
    assert!(pages > 1 && items == 4, "{lists:?}");
    let (pages, items) = of("ListDeadLetters");
    assert!(pages > 1 && items == 1_500, "{lists:?}");
    let (pages, items) = of("ListDeadLetterGroups");
    assert!(pages > 1 && items == 1_500, "{lists:?}");
}

/// Inserts dead letters with long errors, as a handler may write them.
async fn fill_wide_rows(stack: &Stack) {
    let pool = stack.database(Service::Order).superuser().await;
    let rows = "insert into events.dead_letter (id, facility, state, consumer, event_id, message_id, type, subject, stream,
            stream_sequence, aggregate, aggregate_id, version, headers, body, error_class, error_code, error_message,
            fingerprint, attempts, first_failure_at, last_failure_at, handler_version)
        select gen_random_uuid(), $1, 'open', 'order-payments', gen_random_uuid(), n::text, 'a.b', 'evt.a.b', 'EVENTS', n,
            'order', gen_random_uuid(), 1, '{}', '', 'permanent', 'WIDE', repeat('w', 8000), 'f' || n, 1, now(), now(), '1'
        from generate_series(1, 1500) n";
    sqlx::query(rows).bind(FACILITY).execute(&pool).await.unwrap();
}

/// Reads a list with the largest page size and returns its number of pages and items.
async fn read_all(stack: &Stack, method: &MethodDescriptor) -> (usize, usize) {
    let mut token = String::new();
    let (mut pages, mut items, mut tokens) = (0, 0, HashSet::new());
    loop {
        let mut request = DynamicMessage::new(method.input());
        request.set_field_by_name("page_size", Value::I32(1_000));
        request.set_field_by_name("page_token", Value::String(token));
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let bearer = stack.token(FACILITY, &["admin"]);
        let mut client =
            Grpc::new(stack.connect(server_of(method), &bearer)).max_decoding_message_size(64 << 20);
        client.ready().await.unwrap();
        let body = Bytes::from(request.encode_to_vec());
        let answer = client.unary(Request::new(body), path.parse().unwrap(), Raw).await;
        let answer = answer
            .unwrap_or_else(|status| panic!("{path}: {status}"))
            .into_inner();
        assert!(answer.len() < DEFAULT_BOUND, "{path}: {} bytes", answer.len());
        let answer = DynamicMessage::decode(method.output(), answer).unwrap();
        let listed = method.output().fields().find(|field| field.is_list()).unwrap();
        items += answer.get_field(&listed).as_list().unwrap().len();
        pages += 1;
        let next = answer.get_field_by_name("next_page_token").unwrap();
        token = next.as_str().unwrap().to_owned();
        if token.is_empty() {
            return (pages, items);
        }
        assert!(tokens.insert(token.clone()), "{path} goes round in circles");
    }
}
