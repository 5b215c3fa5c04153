//! An order in the arguments of a command: its id, or the caller's reference.

use std::str::FromStr;

use proto::order::v1::{GetOrderRequest, Order};
use tonic::Code;
use uuid::Uuid;

use crate::{
    clients::Clients,
    failure::{During as _, Failure},
};

/// An order's id or reference, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrderArg(String);

impl FromStr for OrderArg {
    type Err = String;

    fn from_str(text: &str) -> Result<OrderArg, String> {
        if text.trim().is_empty() {
            Err("it must be the order's id or reference".to_owned())
        } else {
            Ok(OrderArg(text.to_owned()))
        }
    }
}

impl OrderArg {
    /// Fetches the order. A UUID is looked up as an id, then as a reference, because a reference may be a UUID.
    pub(crate) async fn find(&self, clients: &Clients) -> Result<Order, Failure> {
        if Uuid::parse_str(&self.0).is_ok() {
            match self.request(clients, true).await {
                Err(Failure::Call(call)) if call.status.code() == Code::NotFound => {
                    // Neither is found: report the look-up by id, which was probably meant.
                    return match self.request(clients, false).await {
                        Err(Failure::Call(again)) if again.status.code() == Code::NotFound => {
                            Err(Failure::Call(call))
                        }
                        by_reference => by_reference,
                    };
                }
                by_id => return by_id,
            }
        }
        self.request(clients, false).await
    }

    async fn request(&self, clients: &Clients, by_id: bool) -> Result<Order, Failure> {
        let mut request = GetOrderRequest::default();
        if by_id {
            request.id = self.0.clone();
        } else {
            request.reference = self.0.clone();
        }
        let answer = clients
            .order()
            .get_order(clients.untracked_request(request)?)
            .await;
        let answer = answer.during("order.v1.OrderService/GetOrder")?.into_inner();
        Ok(answer.order.unwrap_or_default())
    }

    /// The order's id, for calls to other services. A UUID is used as it is if the order service does not know it
    /// or cannot be reached, because the other services may know it.
    pub(crate) async fn resolve_id(&self, clients: &Clients) -> Result<String, Failure> {
        match self.find(clients).await {
            Ok(order) => Ok(order.id),
            Err(Failure::Call(_)) if Uuid::parse_str(&self.0).is_ok() => Ok(self.0.clone()),
            Err(failure) => Err(failure),
        }
    }

    /// Like [`OrderArg::resolve_id`], for an optional argument.
    pub(crate) async fn resolve_optional(
        argument: Option<OrderArg>,
        clients: &Clients,
    ) -> Result<Option<String>, Failure> {
        match argument {
            Some(argument) => Ok(Some(argument.resolve_id(clients).await?)),
            None => Ok(None),
        }
    }
}
