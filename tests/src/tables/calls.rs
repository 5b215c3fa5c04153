//! Every list of every service with every filter, on tables that [`fill`](super::fill) has filled.

use std::pin::Pin;

use proto::{
    claims::v1::{ClaimState, ListClaimsRequest, claim_service_client::ClaimServiceClient},
    ops::v1::{
        AuditEventsRequest, DeadLetterState, GetDeadLetterRequest, GetReplayRunRequest, ListConsumersRequest,
        ListDeadLetterGroupsRequest, ListDeadLettersRequest, ListHeldMessagesRequest, ListSagasRequest,
        SagaState, dead_letter_service_client::DeadLetterServiceClient,
        event_service_client::EventServiceClient, saga_service_client::SagaServiceClient,
    },
    order::v1::{ListOrdersRequest, OrderState, order_service_client::OrderServiceClient},
    payment::v1::{
        GetTrialBalanceRequest, LedgerAccount, ListLedgerEntriesRequest, ListPaymentsRequest, PaymentState,
        ledger_service_client::LedgerServiceClient, payment_service_client::PaymentServiceClient,
    },
};
use tonic::Status;

use super::FACILITY;
use crate::{Service, Stack};

type Running = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

/// A read-only call.
pub struct Call {
    /// Method and filters: `ListOrders line_code=RARE`.
    pub name: String,
    run: Box<dyn Fn() -> Running + Send + Sync>,
}

impl Call {
    /// Makes the call, and reads the second page if there is one.
    ///
    /// # Errors
    /// The status of the failed call.
    pub async fn run(&self) -> Result<(), Status> {
        (self.run)().await
    }
}

/// Lists the first and the second page, once for each filter.
macro_rules! lists {
    ($calls:ident, $client:expr, $method:ident, $request:ident: $({ $($field:ident: $value:expr),* }),+ $(,)?) => {
        $({
            #[allow(clippy::needless_update)]
            let request = $request { $($field: $value.into(),)* ..$request::default() };
            let narrowed: &[String] = &[$(format!(" {}={}", stringify!($field), stringify!($value))),*];
            let client = $client.clone();
            $calls.push(Call {
                name: format!("{}{}", stringify!($method), narrowed.concat()),
                run: Box::new(move || {
                    let (mut client, request) = (client.clone(), request.clone());
                    Box::pin(async move {
                        let page = client.$method(request.clone()).await?.into_inner();
                        if !page.next_page_token.is_empty() {
                            let page_token = page.next_page_token;
                            client.$method($request { page_token, ..request }).await?;
                        }
                        Ok(())
                    })
                }),
            });
        })+
    };
}

/// An existing order.
const AN_ORDER: &str = "01900000-0000-7001-8000-00000000004d";

/// All calls of one service, made by an administrator.
pub fn calls(stack: &Stack, service: Service) -> Vec<Call> {
    let channel = stack.connect(service, &stack.token(FACILITY, &["admin"]));
    let mut calls = Vec::new();
    match service {
        Service::Order => {
            let orders = OrderServiceClient::new(channel.clone());
            lists!(calls, orders, list_orders, ListOrdersRequest:
                {}, { state: OrderState::BalanceDue }, { state: OrderState::Settled }, { state: OrderState::Cancelled },
                { patient_id: "P-77" }, { line_code: "COMMON" }, { line_code: "RARE" }, { line_code: "ABSENT" },
                { line_code: "C-7", patient_id: "P-77" });
            let sagas = SagaServiceClient::new(channel);
            lists!(calls, sagas, list_sagas, ListSagasRequest:
                {}, { state: SagaState::Stuck }, { state: SagaState::Compensated }, { state: SagaState::Running },
                { order_id: AN_ORDER });
        }
        Service::Payment => {
            let payments = PaymentServiceClient::new(channel.clone());
            lists!(calls, payments, list_payments, ListPaymentsRequest:
                {}, { state: PaymentState::Unknown }, { state: PaymentState::Captured },
                { state: PaymentState::Declined }, { order_id: AN_ORDER });
            let ledger = LedgerServiceClient::new(channel.clone());
            lists!(calls, ledger, list_ledger_entries, ListLedgerEntriesRequest:
                {}, { account: LedgerAccount::BadDebt }, { account: LedgerAccount::Cash }, { order_id: AN_ORDER });
            calls.push(trial_balance(ledger));
            dead_letters(&mut calls, stack, channel);
        }
        Service::Claims => {
            let claims = ClaimServiceClient::new(channel);
            lists!(calls, claims, list_claims, ListClaimsRequest:
                {}, { state: ClaimState::Rejected }, { state: ClaimState::Accepted }, { state: ClaimState::Draft },
                { payer_id: "INS-RARE" }, { payer_id: "INS001", state: ClaimState::Rejected }, { order_id: AN_ORDER });
        }
    }
    calls
}

/// Adds a call with a single response.
macro_rules! one {
    ($calls:ident, $client:expr, $method:ident, $request:expr) => {{
        let (client, request) = ($client.clone(), $request);
        $calls.push(Call {
            name: stringify!($method).to_owned(),
            run: Box::new(move || {
                let (mut client, request) = (client.clone(), request.clone());
                Box::pin(async move { client.$method(request).await.map(drop) })
            }),
        });
    }};
}

/// Adds the dead-letter calls twice: as an administrator, who also sees unassigned ones, and as an operator, who
/// does not.
fn dead_letters(calls: &mut Vec<Call>, stack: &Stack, administrator: crate::stack::Client) {
    let operator = stack.connect(Service::Payment, &stack.token(FACILITY, &["operator"]));
    for channel in [administrator.clone(), operator] {
        let letters = DeadLetterServiceClient::new(channel);
        lists!(calls, letters, list_dead_letters, ListDeadLettersRequest:
            {}, { state: DeadLetterState::Open }, { state: DeadLetterState::Replaying },
            { state: DeadLetterState::Resolved }, { state: DeadLetterState::Discarded },
            { consumer: "c-common" }, { consumer: "c-rare" }, { consumer: "absent" },
            { fingerprint: "common" }, { fingerprint: "rare" }, { fingerprint: "f-7" },
            { fingerprint: "common", consumer: "c-rare" },
            { fingerprint: "common", state: DeadLetterState::Discarded },
            { consumer: "c-rare", state: DeadLetterState::Resolved });
        lists!(calls, letters, list_dead_letter_groups, ListDeadLetterGroupsRequest: {});
    }
    let letters = DeadLetterServiceClient::new(administrator.clone());
    let dead_letter_id = "01900000-0000-7032-8000-00000000004d".to_owned();
    one!(
        calls,
        letters,
        get_dead_letter,
        GetDeadLetterRequest { dead_letter_id }
    );
    let replay_run_id = "01900000-0000-7036-8000-000000000001".to_owned();
    one!(
        calls,
        letters,
        get_replay_run,
        GetReplayRunRequest { replay_run_id }
    );
    let events = EventServiceClient::new(administrator);
    one!(calls, events, audit_events, AuditEventsRequest::default());
    one!(calls, events, list_consumers, ListConsumersRequest::default());
    one!(
        calls,
        events,
        list_held_messages,
        ListHeldMessagesRequest::default()
    );
}

fn trial_balance(ledger: LedgerServiceClient<crate::stack::Client>) -> Call {
    Call {
        name: "get_trial_balance".to_owned(),
        run: Box::new(move || {
            let mut ledger = ledger.clone();
            Box::pin(async move {
                let balance = ledger
                    .get_trial_balance(GetTrialBalanceRequest::default())
                    .await?;
                assert!(balance.into_inner().balanced);
                Ok(())
            })
        }),
    }
}
