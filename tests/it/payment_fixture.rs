//! Fixture for payments: the payment service alone with short timeouts, a client, and a view of the card network's
//! own records.

use std::time::Duration;

use events::{Event, Meta};
use prost::Name;
use proto::{
    google::r#type::Money,
    payment::v1::{
        AuthorizePaymentRequest, CapturePaymentRequest, GetPaymentRequest, GetTrialBalanceRequest,
        LedgerAccount, Payment, PaymentPurpose, PaymentState, RefundPaymentRequest, VoidPaymentRequest,
        ledger_service_client::LedgerServiceClient, payment_service_client::PaymentServiceClient,
    },
};
use sqlx::Row as _;
use tests::{Options, Service, Stack, eventually, stack::Client};
use tonic::{Response, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

pub(crate) const FACILITY: &str = "al-noor";
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) stack: Stack,
    pub(crate) payments: PaymentServiceClient<Client>,
    pub(crate) ledger: LedgerServiceClient<Client>,
}

/// The card holder's statement of one order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) holds: i64,
    pub(crate) charges: i64,
    pub(crate) charged: i64,
    pub(crate) given_back: i64,
}

impl Fixture {
    pub(crate) async fn start() -> Fixture {
        Fixture::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Fixture {
        let mut options = options.only(&[Service::Payment]);
        for (name, value) in [
            ("processor.timeout_ms", "1000"),
            ("processor.ask_again_ms", "50"),
            ("processor.poll_ms", "20"),
            ("sandbox.slow_ms", "150"),
        ] {
            if !options.settings.iter().any(|(_, set, _)| set == name) {
                options = options.set(Service::Payment, name, value);
            }
        }
        let stack = Stack::with(options).await;
        let (payments, ledger) = clients(&stack, FACILITY);
        Fixture {
            stack,
            payments,
            ledger,
        }
    }

    pub(crate) async fn authorize(&self, order: Uuid, minor: i64, method: &str) -> Result<Payment, Status> {
        self.send(authorize(order, minor, method)).await
    }

    pub(crate) async fn send(&self, request: AuthorizePaymentRequest) -> Result<Payment, Status> {
        let answer = self.payments.clone().authorize_payment(request).await?;
        Ok(answer.into_inner().payment.unwrap())
    }

    pub(crate) async fn capture(&self, payment: &Payment, amount: Option<i64>) -> Result<Payment, Status> {
        let request = CapturePaymentRequest {
            request_id: fresh(),
            id: payment.id.clone(),
            amount: amount.map(aed),
        };
        Ok(self
            .payments
            .clone()
            .capture_payment(request)
            .await?
            .into_inner()
            .payment
            .unwrap())
    }

    pub(crate) async fn refund(&self, payment: &Payment, amount: Option<i64>) -> Result<Payment, Status> {
        let request = RefundPaymentRequest {
            request_id: fresh(),
            id: payment.id.clone(),
            amount: amount.map(aed),
            reason: "returned".to_owned(),
        };
        Ok(self
            .payments
            .clone()
            .refund_payment(request)
            .await?
            .into_inner()
            .payment
            .unwrap())
    }

    pub(crate) async fn void(&self, order: Uuid) -> Result<Payment, Status> {
        let request = VoidPaymentRequest {
            request_id: fresh(),
            order_id: order.to_string(),
            purpose: PaymentPurpose::Share.into(),
            reason: "cancelled".to_owned(),
        };
        Ok(self
            .payments
            .clone()
            .void_payment(request)
            .await?
            .into_inner()
            .payment
            .unwrap())
    }

    pub(crate) async fn get(&self, order: Uuid, purpose: PaymentPurpose) -> Result<Payment, Status> {
        let request = GetPaymentRequest {
            id: String::new(),
            order_id: order.to_string(),
            purpose: purpose.into(),
        };
        Ok(self
            .payments
            .clone()
            .get_payment(request)
            .await?
            .into_inner()
            .payment
            .unwrap())
    }

    /// Waits until the order's payment has this state.
    pub(crate) async fn becomes(&self, order: Uuid, purpose: PaymentPurpose, state: PaymentState) -> Payment {
        eventually(SOON, || async {
            let payment = self
                .get(order, purpose)
                .await
                .map_err(|status| status.to_string())?;
            if payment.state() == state {
                Ok(payment)
            } else {
                Err(format!("{payment:?}"))
            }
        })
        .await
    }

    pub(crate) async fn statement(&self, order: Uuid) -> Statement {
        let pool = self.stack.database(Service::Payment).superuser().await;
        let row = sqlx::query(
            "select coalesce(sum(holds), 0)::bigint, coalesce(sum(charges), 0)::bigint,
                 coalesce(sum(charged), 0)::bigint, coalesce(sum(given_back), 0)::bigint
             from sandbox.card_statement where merchant_reference like $1 || ':%'",
        )
        .bind(order.to_string())
        .fetch_one(&pool)
        .await
        .unwrap();
        Statement {
            holds: row.get(0),
            charges: row.get(1),
            charged: row.get(2),
            given_back: row.get(3),
        }
    }

    /// The short names of the events of a payment, in order.
    pub(crate) async fn events(&self, payment: &Payment) -> Vec<String> {
        let pool = self.stack.database(Service::Payment).superuser().await;
        let types: Vec<String> = sqlx::query_scalar(
            "select type from events.event_log where aggregate_id = $1::uuid order by version, occurred_at",
        )
        .bind(&payment.id)
        .fetch_all(&pool)
        .await
        .unwrap();
        types
            .into_iter()
            .map(|name| name.replace("payment.v1.Payment", ""))
            .collect()
    }

    /// Publishes an event as its service would, and waits until the payment service has consumed it.
    pub(crate) async fn publish<M: Name + prost::Message>(&self, consumer: &str, aggregate: Uuid, event: &M) {
        self.publish_version(consumer, (aggregate, 1), event).await;
    }

    pub(crate) async fn publish_version<M: Name + prost::Message>(
        &self,
        consumer: &str,
        (aggregate, version): (Uuid, i64),
        event: &M,
    ) {
        let pool = self.stack.database(Service::Payment).superuser().await;
        let meta = Meta {
            facility: FACILITY.to_owned(),
            aggregate_id: aggregate,
            version,
            saga_id: None,
            causation_id: None,
        };
        let event = Event::new(event, meta);
        let mut tx = pool.begin().await.unwrap();
        events::append(&mut tx, std::slice::from_ref(&event))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let consumed = format!(
            "select count(*) from events.inbox where consumer = '{consumer}' and event_id = '{}'",
            event.id
        );
        let database = self.stack.database(Service::Payment);
        eventually(SOON, || async { database.count(&consumed).await == 1 }).await;
    }

    /// The balances of an order's accounts in minor units; asserts that they sum to zero.
    pub(crate) async fn balances(&self, order: Uuid) -> Vec<(LedgerAccount, i64)> {
        let request = GetTrialBalanceRequest {
            order_id: order.to_string(),
            currency_code: String::new(),
        };
        let trial = self
            .ledger
            .clone()
            .get_trial_balance(request)
            .await
            .unwrap()
            .into_inner();
        assert!(trial.balanced, "{trial:?}");
        trial
            .accounts
            .iter()
            .map(|account| (account.account(), minor(account.balance.as_ref())))
            .collect()
    }
}

pub(crate) fn clients(
    stack: &Stack,
    facility: &str,
) -> (PaymentServiceClient<Client>, LedgerServiceClient<Client>) {
    let token = stack.token(facility, &["clerk", "cashier", "viewer"]);
    let connect = || stack.connect(Service::Payment, &token);
    (
        PaymentServiceClient::new(connect()),
        LedgerServiceClient::new(connect()),
    )
}

pub(crate) fn authorize(order: Uuid, minor: i64, method: &str) -> AuthorizePaymentRequest {
    AuthorizePaymentRequest {
        request_id: fresh(),
        order_id: order.to_string(),
        purpose: PaymentPurpose::Share.into(),
        amount: Some(aed(minor)),
        payment_method: method.to_owned(),
        capture: false,
    }
}

/// A request to authorize and capture at once.
pub(crate) fn charge(order: Uuid, minor: i64, method: &str) -> AuthorizePaymentRequest {
    AuthorizePaymentRequest {
        capture: true,
        ..authorize(order, minor, method)
    }
}

pub(crate) fn fresh() -> String {
    Uuid::new_v4().to_string()
}

pub(crate) fn aed(minor: i64) -> Money {
    money::Money::new(minor, money::Currency::AED).into()
}

pub(crate) fn minor(money: Option<&Money>) -> i64 {
    money::Money::try_from(money.unwrap()).unwrap().minor()
}

pub(crate) fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

/// Whether a response is marked as a repeated one.
pub(crate) fn replayed<M>(response: &Response<M>) -> bool {
    response.metadata().contains_key("idempotency-replayed")
}
