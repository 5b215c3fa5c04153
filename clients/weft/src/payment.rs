//! `weft payment …`: lists, shows and makes payments.

use clap::{ArgGroup, Subcommand};
use proto::payment::v1::{
    GetPaymentRequest, GetPaymentResponse, ListPaymentsRequest, ListPaymentsResponse, PayOrderRequest,
    Payment, PaymentPurpose, PaymentState, RefundState,
};
use uuid::Uuid;

use crate::{
    clients::Clients,
    enum_value::EnumValue,
    failure::{During as _, Failure},
    globals::{self, Format, Globals},
    order_arg::OrderArg,
    output::{self, Table, money, short_name, timestamp},
    paging::{self, Limit},
};

/// Written by hand, because clap's own usage does not show that one of the two is enough.
const GET_USAGE: &str = "\
weft payment get [OPTIONS] <PAYMENT>
       weft payment get [OPTIONS] --order <ORDER> [--purpose <PURPOSE>]";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a payment: by its id, or by its order and what it is for
    #[command(override_usage = GET_USAGE, group = ArgGroup::new("named").args(["payment", "order"]).required(true))]
    Get {
        /// The payment's id
        #[arg(value_parser = globals::parse_uuid)]
        payment: Option<Uuid>,
        /// The order (id or reference) whose payment to show, instead of the payment's id
        #[arg(long)]
        order: Option<OrderArg>,
        /// Which of the order's payments; only beside --order
        #[arg(long, value_enum, default_value_t = Purpose::Share, conflicts_with = "payment")]
        purpose: Purpose,
    },
    /// List payments, newest first
    List {
        /// Only the payments of this order
        #[arg(long)]
        order: Option<OrderArg>,
        /// Only payments in this state
        #[arg(long, value_parser = EnumValue::new(PaymentState::as_str_name))]
        state: Option<PaymentState>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Pay the share of an order that waits for it, or the balance of one that is due
    Pay {
        /// The order's id or reference
        order: OrderArg,
        /// The payment method's token, such as tok_visa
        #[arg(long)]
        payment_method: String,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// The patient's share
    Share,
    /// What the payer refused and the patient owes
    Balance,
}

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    match command {
        Command::Get {
            payment: Some(id), ..
        } => {
            let request = GetPaymentRequest {
                id: id.to_string(),
                ..GetPaymentRequest::default()
            };
            get(&clients, globals.output, request).await
        }
        Command::Get {
            payment: None,
            order,
            purpose,
        } => {
            let purpose = match purpose {
                Purpose::Share => PaymentPurpose::Share,
                Purpose::Balance => PaymentPurpose::Balance,
            };
            let order_id = OrderArg::resolve_optional(order, &clients)
                .await?
                .unwrap_or_default();
            let request = GetPaymentRequest {
                order_id,
                purpose: purpose.into(),
                ..GetPaymentRequest::default()
            };
            get(&clients, globals.output, request).await
        }
        Command::List { order, state, limit } => {
            let order = OrderArg::resolve_optional(order, &clients).await?;
            list(&clients, globals.output, order, state, limit).await
        }
        Command::Pay {
            order,
            payment_method,
        } => {
            let request = PayOrderRequest {
                request_id: clients.request_id(),
                order_id: order.resolve_id(&clients).await?,
                payment_method,
            };
            let answer = clients.payment().pay_order(clients.request(request)?).await;
            let payment = answer
                .during("payment.v1.PaymentService/PayOrder")?
                .into_inner()
                .payment;
            print(globals.output, payment)
        }
    }
}

async fn get(clients: &Clients, format: Format, request: GetPaymentRequest) -> Result<(), Failure> {
    let answer = clients.payment().get_payment(clients.request(request)?).await;
    print(
        format,
        answer
            .during("payment.v1.PaymentService/GetPayment")?
            .into_inner()
            .payment,
    )
}

async fn list(
    clients: &Clients,
    format: Format,
    order: Option<String>,
    wanted: Option<PaymentState>,
    limit: Limit,
) -> Result<(), Failure> {
    let listed = paging::collect(limit, async |page_size, page_token| {
        let request = ListPaymentsRequest {
            page_size,
            page_token,
            order_id: order.clone().unwrap_or_default(),
            state: wanted.unwrap_or_default().into(),
        };
        let answer = clients.payment().list_payments(clients.request(request)?).await;
        let page = answer
            .during("payment.v1.PaymentService/ListPayments")?
            .into_inner();
        Ok((page.payments, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        let response = ListPaymentsResponse {
            payments: listed.rows,
            next_page_token: listed.next_page_token,
        };
        return output::print_json(&output::json(&response)?);
    }
    let heading = [
        "ID",
        "ORDER",
        "FOR",
        "STATE",
        ">AMOUNT",
        ">CAPTURED",
        ">REFUNDED",
        "CREATED",
    ];
    let mut table = Table::new(
        heading,
        output::no_rows("payments", order.is_some() || wanted.is_some()),
    );
    for payment in &listed.rows {
        table.row([
            payment.id.clone(),
            payment.order_id.clone(),
            short_name(payment.purpose().as_str_name()),
            short_name(payment.state().as_str_name()),
            money(payment.amount.as_ref()),
            money(payment.captured.as_ref()),
            money(payment.refunded.as_ref()),
            timestamp(payment.create_time.as_ref()),
        ]);
    }
    print!("{table}");
    listed.mention_more();
    Ok(())
}

fn print(format: Format, payment: Option<Payment>) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(&output::json(&GetPaymentResponse { payment })?);
    }
    let payment = payment.unwrap_or_default();
    let fields = [
        ("payment", payment.id.clone()),
        ("order", payment.order_id.clone()),
        ("for", short_name(payment.purpose().as_str_name())),
        ("state", short_name(payment.state().as_str_name())),
        ("amount", money(payment.amount.as_ref())),
        ("authorized", money(payment.authorized.as_ref())),
        ("captured", money(payment.captured.as_ref())),
        (
            "capturing",
            if payment.capture_pending { "yes" } else { "" }.to_owned(),
        ),
        ("refunded", money(payment.refunded.as_ref())),
        ("method", payment.payment_method.clone()),
        ("declined", payment.decline_reason.clone()),
        ("processor's", payment.processor_reference.clone()),
        ("lapses", timestamp(payment.expire_time.as_ref())),
        ("created", timestamp(payment.create_time.as_ref())),
    ];
    output::print_fields(&fields);
    for refund in &payment.refunds {
        let state = short_name(
            RefundState::try_from(refund.state)
                .unwrap_or_default()
                .as_str_name(),
        );
        println!(
            "refund {} {} {state} {}",
            refund.id,
            money(refund.amount.as_ref()),
            refund.reason
        );
    }
    Ok(())
}
