//! Fixture for orders: all services with short timeouts, and clients of one facility.

use std::time::Duration;

use proto::{
    claims::v1::{Claim, ListClaimsRequest, claim_service_client::ClaimServiceClient},
    ops::v1::{GetSagaRequest, ListSagasRequest, Saga, SagaStep, saga_service_client::SagaServiceClient},
    order::v1::{
        CancelOrderRequest, FulfilOrderRequest, GetOrderRequest, Order, OrderState, PlaceOrderRequest,
        RefundOrderRequest, order_service_client::OrderServiceClient,
    },
    payment::v1::{
        GetTrialBalanceRequest, ListPaymentsRequest, Payment, ledger_service_client::LedgerServiceClient,
        payment_service_client::PaymentServiceClient,
    },
};
use tests::{Options, Service, Stack, eventually, stack::Client};
use tonic::Status;
use tonic_types::StatusExt as _;
use uuid::Uuid;

pub(crate) const FACILITY: &str = "al-noor";
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) stack: Stack,
    pub(crate) orders: OrderServiceClient<Client>,
    pub(crate) sagas: SagaServiceClient<Client>,
    pub(crate) payments: PaymentServiceClient<Client>,
    pub(crate) claims: ClaimServiceClient<Client>,
    pub(crate) ledger: LedgerServiceClient<Client>,
}

impl Fixture {
    pub(crate) async fn start() -> Fixture {
        Fixture::with(Options::default()).await
    }

    pub(crate) async fn with(mut options: Options) -> Fixture {
        for (service, name, value) in [
            (Service::Order, "saga.lease_ms", "3000"),
            (Service::Order, "saga.poll_ms", "50"),
            (Service::Payment, "processor.timeout_ms", "400"),
            (Service::Payment, "processor.ask_again_ms", "50"),
            (Service::Payment, "processor.poll_ms", "20"),
        ] {
            if !options
                .settings
                .iter()
                .any(|(of, set, _)| *of == service && set == name)
            {
                options = options.set(service, name, value);
            }
        }
        let stack = Stack::with(options).await;
        let token = stack.token(FACILITY, &["admin"]);
        Fixture {
            orders: OrderServiceClient::new(stack.connect(Service::Order, &token)),
            sagas: SagaServiceClient::new(stack.connect(Service::Order, &token)),
            payments: PaymentServiceClient::new(stack.connect(Service::Payment, &token)),
            claims: ClaimServiceClient::new(stack.connect(Service::Claims, &token)),
            ledger: LedgerServiceClient::new(stack.connect(Service::Payment, &token)),
            stack,
        }
    }

    pub(crate) async fn place(&self, request: PlaceOrderRequest) -> Result<Order, Status> {
        let answer = self.orders.clone().place_order(request).await?;
        Ok(answer.into_inner().order.unwrap())
    }

    pub(crate) async fn fulfil(&self, id: &str) -> Result<Order, Status> {
        let request = FulfilOrderRequest {
            request_id: fresh(),
            id: id.to_owned(),
        };
        Ok(self
            .orders
            .clone()
            .fulfil_order(request)
            .await?
            .into_inner()
            .order
            .unwrap())
    }

    pub(crate) async fn cancel(&self, id: &str) -> Result<Order, Status> {
        let reason = "the patient went home".to_owned();
        let request = CancelOrderRequest {
            request_id: fresh(),
            id: id.to_owned(),
            reason,
        };
        Ok(self
            .orders
            .clone()
            .cancel_order(request)
            .await?
            .into_inner()
            .order
            .unwrap())
    }

    pub(crate) async fn refund(&self, request: RefundOrderRequest) -> Result<Order, Status> {
        Ok(self
            .orders
            .clone()
            .refund_order(request)
            .await?
            .into_inner()
            .order
            .unwrap())
    }

    pub(crate) async fn get(&self, id: &str) -> Result<Order, Status> {
        let request = GetOrderRequest {
            id: id.to_owned(),
            reference: String::new(),
        };
        Ok(self
            .orders
            .clone()
            .get_order(request)
            .await?
            .into_inner()
            .order
            .unwrap())
    }

    /// Waits until the order has this state.
    pub(crate) async fn becomes(&self, id: &str, state: OrderState) -> Order {
        eventually(SOON, || async {
            let order = self.get(id).await.map_err(|status| status.to_string())?;
            if order.state() == state {
                Ok(order)
            } else {
                Err(format!("{order:?}"))
            }
        })
        .await
    }

    pub(crate) async fn payments_of(&self, order_id: &str) -> Vec<Payment> {
        let request = ListPaymentsRequest {
            order_id: order_id.to_owned(),
            ..Default::default()
        };
        self.payments
            .clone()
            .list_payments(request)
            .await
            .unwrap()
            .into_inner()
            .payments
    }

    pub(crate) async fn claims_of(&self, order_id: &str) -> Vec<Claim> {
        let request = ListClaimsRequest {
            order_id: order_id.to_owned(),
            ..Default::default()
        };
        self.claims
            .clone()
            .list_claims(request)
            .await
            .unwrap()
            .into_inner()
            .claims
    }

    pub(crate) async fn saga(&self, id: &str) -> Saga {
        let request = GetSagaRequest { id: id.to_owned() };
        self.sagas
            .clone()
            .get_saga(request)
            .await
            .unwrap()
            .into_inner()
            .saga
            .unwrap()
    }

    pub(crate) async fn sagas_of(&self, order_id: &str) -> Vec<Saga> {
        let request = ListSagasRequest {
            order_id: order_id.to_owned(),
            ..Default::default()
        };
        self.sagas
            .clone()
            .list_sagas(request)
            .await
            .unwrap()
            .into_inner()
            .sagas
    }

    /// The amounts authorized, captured and refunded by the payment of the order's share, in whole units.
    pub(crate) async fn money_of(&self, order_id: &str) -> (i64, i64, i64) {
        let payments = self.payments_of(order_id).await;
        assert_eq!(payments.len(), 1, "{payments:?}");
        let units =
            |money: &Option<proto::google::r#type::Money>| money.as_ref().map_or(0, |money| money.units);
        (
            units(&payments[0].authorized),
            units(&payments[0].captured),
            units(&payments[0].refunded),
        )
    }

    /// The ledger's non-zero balances of the order, in whole units.
    pub(crate) async fn balance_of(&self, order_id: &str) -> Vec<(String, i64)> {
        let request = GetTrialBalanceRequest {
            order_id: order_id.to_owned(),
            currency_code: String::new(),
        };
        let balance = self
            .ledger
            .clone()
            .get_trial_balance(request)
            .await
            .unwrap()
            .into_inner();
        assert!(balance.balanced);
        let account = |account: &proto::payment::v1::AccountBalance| {
            let name = account
                .account()
                .as_str_name()
                .trim_start_matches("LEDGER_ACCOUNT_")
                .to_lowercase();
            (name, account.balance.as_ref().map_or(0, |money| money.units))
        };
        balance
            .accounts
            .iter()
            .map(account)
            .filter(|(_, units)| *units != 0)
            .collect()
    }

    pub(crate) async fn rows(&self, query: &str) -> i64 {
        self.stack.database(Service::Order).count(query).await
    }
}

/// The names of a saga's steps: `prepare_claim`, and `undo prepare_claim` for its compensation.
pub(crate) fn step_names(saga: &Saga) -> Vec<String> {
    let name = |step: &SagaStep| {
        if step.compensation {
            format!("undo {}", step.name)
        } else {
            step.name.clone()
        }
    };
    saga.steps.iter().map(name).collect()
}

pub(crate) fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default()
}

pub(crate) fn fresh() -> String {
    Uuid::new_v4().to_string()
}
