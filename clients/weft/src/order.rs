//! `weft order …`: places, lists, shows and changes orders.

mod line;
mod place;
mod show;

use clap::{Args, Subcommand, ValueEnum};
use proto::order::v1::{
    BalanceResolution, CancelOrderRequest, FulfilOrderRequest, GetOrderRequest, GetOrderResponse,
    ListOrdersRequest, ListOrdersResponse, Order, OrderRefundState, OrderState, RefundOrderRequest,
    ResolveOrderBalanceRequest, WatchOrderRequest,
};

use crate::{
    clients::Clients,
    enum_value::EnumValue,
    failure::{During as _, Failure},
    globals::{Format, Globals},
    import,
    order_arg::OrderArg,
    output::{self, Table},
    paging::{self, Limit},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Place an order
    Place(Box<place::Arguments>),
    /// Show an order
    Get {
        /// The order's id, or the caller's own number of it
        order: OrderArg,
    },
    /// List orders, newest first
    List(ListArguments),
    /// Follow an order until nothing more changes by itself
    Watch {
        /// The order's id or reference
        order: OrderArg,
    },
    /// Capture the share and file the claim of a confirmed order
    Fulfil {
        /// The order's id or reference
        order: OrderArg,
    },
    /// Give an order up before it is fulfilled
    Cancel {
        /// The order's id or reference
        order: OrderArg,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Give back a fulfilled order, or a part of it
    Refund(RefundArguments),
    /// Decide what becomes of what is still open
    Resolve(ResolveArguments),
    /// Import an eClaimLink Claim.Submission (XML) or online-retail invoices (CSV)
    Import(import::Arguments),
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Only orders in this state
    #[arg(long, value_parser = EnumValue::new(OrderState::as_str_name))]
    state: Option<OrderState>,
    /// Only orders of this patient
    #[arg(long)]
    patient: Option<String>,
    /// Only orders that hold an item with this code
    #[arg(long)]
    code: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

#[derive(Debug, Args)]
pub(crate) struct RefundArguments {
    /// The order's id or reference
    order: OrderArg,
    /// A line that is returned: its number, how many and, unless in proportion, how much; may be given several times
    #[arg(
        long = "line",
        value_name = "NUMBER:QUANTITY[:AMOUNT]",
        conflicts_with = "amount"
    )]
    lines: Vec<String>,
    /// An amount to refund, such as "12.50 GBP"; without it and without lines, all that is left
    #[arg(long, allow_hyphen_values = true)]
    amount: Option<String>,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    /// The caller's own number of the refund
    #[arg(long)]
    reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ResolveArguments {
    /// The order's id or reference
    order: OrderArg,
    /// What becomes of what is open
    #[arg(value_enum)]
    resolution: Resolution,
    /// How much of it, such as "12.50 GBP"; without it, all that is open
    #[arg(long, allow_hyphen_values = true)]
    amount: Option<String>,
    /// Why
    #[arg(long)]
    reason: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Resolution {
    /// What the payer refused is billed to the patient
    BillPatient,
    /// What is open is written off: the payer's part, then the patient's balance
    WriteOff,
}

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    if let Command::Import(arguments) = command {
        return import::run(globals, arguments).await;
    }
    let clients = Clients::open(globals)?;
    let format = globals.output;
    let goal = Goal::from_command(&command);
    let order = match command {
        Command::List(arguments) => return list(&clients, format, arguments).await,
        Command::Watch { order } => return watch(&clients, format, order).await,
        Command::Place(arguments) => place::run(&clients, *arguments).await?,
        Command::Get { order } => {
            clients.check_timeout::<GetOrderRequest>()?;
            Some(order.find(&clients).await?)
        }
        Command::Fulfil { order } => {
            let request = FulfilOrderRequest {
                request_id: clients.request_id(),
                id: order.resolve_id(&clients).await?,
            };
            let answer = clients.order().fulfil_order(clients.request(request)?).await;
            answer
                .during("order.v1.OrderService/FulfilOrder")?
                .into_inner()
                .order
        }
        Command::Cancel { order, reason } => {
            let request = CancelOrderRequest {
                request_id: clients.request_id(),
                id: order.resolve_id(&clients).await?,
                reason: reason.unwrap_or_default(),
            };
            let answer = clients.order().cancel_order(clients.request(request)?).await;
            answer
                .during("order.v1.OrderService/CancelOrder")?
                .into_inner()
                .order
        }
        Command::Refund(arguments) => refund(&clients, arguments).await?,
        Command::Resolve(arguments) => resolve(&clients, arguments).await?,
        Command::Import(_) => None,
    };
    let reached = order.as_ref().is_none_or(|order| goal.reached(order));
    print(format, order)?;
    if reached {
        Ok(())
    } else {
        Err(Failure::AlreadyReported)
    }
}

/// The order's state that makes a command a success. The service answers OK to a declined card; the exit code is
/// then 1.
#[derive(Clone, Copy)]
enum Goal {
    /// Any state.
    None,
    /// The order has not failed and is not cancelled.
    Proceed,
    /// The last refund has not failed.
    Refund,
}

impl Goal {
    fn from_command(command: &Command) -> Goal {
        match command {
            Command::Place(_) | Command::Fulfil { .. } => Goal::Proceed,
            Command::Refund(_) => Goal::Refund,
            _ => Goal::None,
        }
    }

    fn reached(self, order: &Order) -> bool {
        let ended = [
            OrderState::Rejected,
            OrderState::Expired,
            OrderState::Cancelling,
            OrderState::Cancelled,
        ];
        match self {
            Goal::None => true,
            Goal::Proceed => !ended.contains(&order.state()),
            Goal::Refund => order
                .refunds
                .last()
                .is_none_or(|last| last.state() != OrderRefundState::Failed),
        }
    }
}

fn print(format: Format, order: Option<Order>) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(&output::json(&GetOrderResponse { order })?),
        Format::Table => {
            print!("{}", order.map(|order| show::order(&order)).unwrap_or_default());
            Ok(())
        }
    }
}

async fn list(clients: &Clients, format: Format, arguments: ListArguments) -> Result<(), Failure> {
    let listed = paging::collect(arguments.limit, async |page_size, page_token| {
        let request = ListOrdersRequest {
            page_size,
            page_token,
            state: arguments.state.unwrap_or_default().into(),
            patient_id: arguments.patient.clone().unwrap_or_default(),
            line_code: arguments.code.clone().unwrap_or_default(),
        };
        let answer = clients.order().list_orders(clients.request(request)?).await;
        let page = answer.during("order.v1.OrderService/ListOrders")?.into_inner();
        Ok((page.orders, page.next_page_token))
    })
    .await?;
    if format == Format::Json {
        let response = ListOrdersResponse {
            orders: listed.rows,
            next_page_token: listed.next_page_token,
        };
        return output::print_json(&output::json(&response)?);
    }
    let mut table = Table::new(
        [
            "ID",
            "REFERENCE",
            "PATIENT",
            "STATE",
            ">GROSS",
            ">SHARE",
            ">PAYER",
            ">REFUNDED",
            "CREATED",
        ],
        output::no_rows(
            "orders",
            arguments.state.is_some() || arguments.patient.is_some() || arguments.code.is_some(),
        ),
    );
    for order in &listed.rows {
        table.row(show::row(order));
    }
    print!("{table}");
    listed.mention_more();
    Ok(())
}

async fn watch(clients: &Clients, format: Format, order: OrderArg) -> Result<(), Failure> {
    const METHOD: &str = "order.v1.OrderService/WatchOrder";
    let request = WatchOrderRequest {
        id: order.resolve_id(clients).await?,
    };
    let mut stream = clients
        .order()
        .watch_order(clients.request(request)?)
        .await
        .during(METHOD)?
        .into_inner();
    while let Some(answer) = stream.message().await.during(METHOD)? {
        match format {
            // One document per line, so that a reader sees each change at once.
            Format::Json => println!("{}", output::json(&answer)?),
            Format::Table => println!("{}", show::change(&answer.order.unwrap_or_default())),
        }
    }
    Ok(())
}

async fn refund(clients: &Clients, arguments: RefundArguments) -> Result<Option<Order>, Failure> {
    let order = arguments.order.find(clients).await?;
    let currency = order
        .gross
        .as_ref()
        .map(|gross| gross.currency_code.clone())
        .unwrap_or_default();
    let lines = arguments
        .lines
        .iter()
        .map(|text| line::parse_refund(text, &currency));
    let request = RefundOrderRequest {
        request_id: clients.request_id(),
        id: order.id,
        lines: lines.collect::<Result<_, _>>().map_err(Failure::Usage)?,
        amount: arguments
            .amount
            .map(|text| line::parse_money(&text, &currency))
            .transpose()
            .map_err(Failure::Usage)?,
        reason: arguments.reason.unwrap_or_default(),
        reference: arguments.reference.unwrap_or_default(),
    };
    let answer = clients.order().refund_order(clients.request(request)?).await;
    Ok(answer
        .during("order.v1.OrderService/RefundOrder")?
        .into_inner()
        .order)
}

async fn resolve(clients: &Clients, arguments: ResolveArguments) -> Result<Option<Order>, Failure> {
    let resolution = match arguments.resolution {
        Resolution::BillPatient => BalanceResolution::BillPatient,
        Resolution::WriteOff => BalanceResolution::WriteOff,
    };
    let (id, amount) = match arguments.amount {
        None => (arguments.order.resolve_id(clients).await?, None),
        Some(text) => {
            let order = arguments.order.find(clients).await?;
            let currency = order.gross.map(|gross| gross.currency_code).unwrap_or_default();
            let amount = line::parse_money(&text, &currency).map_err(Failure::Usage)?;
            (order.id, Some(amount))
        }
    };
    let request = ResolveOrderBalanceRequest {
        request_id: clients.request_id(),
        id,
        resolution: resolution.into(),
        reason: arguments.reason,
        amount,
    };
    let answer = clients
        .order()
        .resolve_order_balance(clients.request(request)?)
        .await;
    Ok(answer
        .during("order.v1.OrderService/ResolveOrderBalance")?
        .into_inner()
        .order)
}
