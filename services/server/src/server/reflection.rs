//! Server reflection, v1 and v1alpha, for the served services only: every service, message, field, extension and
//! file, with options, and the error details.

mod index;

use std::{pin::Pin, sync::Arc};

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _};
use index::{Found, Index};
use serde::{Deserialize, Serialize};
use tonic::{Code, Request, Response, Status, Streaming, service::RoutesBuilder};

use crate::{Contract, contract::text::sanitized};

/// Characters of a query that are repeated in the response.
const MAX_ECHO_CHARS: usize = 1_000;

/// Who may use reflection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Any caller.
    #[default]
    Open,
    /// Callers with a valid token, of any role.
    Token,
    /// Reflection is not served.
    Off,
}

/// The path prefix of both versions.
pub(super) const PREFIX: &str = "/grpc.reflection.";

/// The full names of both versions.
pub(super) const SERVICES: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Mounts both versions for these services, and health. Of services that are not in the contract only the names are
/// known.
pub(super) fn mount(
    routes: &mut RoutesBuilder,
    contract: Option<&Contract>,
    mounted: &[&str],
) -> anyhow::Result<()> {
    let index = Index::new(contract, mounted).context("the contract's descriptors are broken")?;
    let index = Arc::new(index);
    routes.add_service(v1::server(Arc::clone(&index)));
    routes.add_service(v1alpha::server(index));
    Ok(())
}

/// A query; the same in both versions.
enum Query<'a> {
    Services,
    File(&'a str),
    Symbol(&'a str),
    Extension(&'a str, i32),
    ExtensionNumbers(&'a str),
    None,
}

impl Index {
    fn answer(&self, query: &Query<'_>) -> Result<Found<'_>, (Code, String)> {
        let missing = |what: &str, name: &str| {
            let name = sanitized(name, MAX_ECHO_CHARS);
            (Code::NotFound, format!("no such {what} is served: {name}"))
        };
        match *query {
            Query::Services => Ok(Found::Services(self.services())),
            Query::File(name) => self
                .file(name)
                .map(Found::File)
                .ok_or_else(|| missing("file", name)),
            Query::Symbol(name) => self
                .file_of_symbol(name)
                .map(Found::File)
                .ok_or_else(|| missing("symbol", name)),
            Query::Extension(name, number) => self
                .file_of_extension(name, number)
                .map(Found::File)
                .ok_or_else(|| missing("extension", &format!("{number} of {name}"))),
            Query::ExtensionNumbers(name) => self
                .extension_numbers(name)
                .map(Found::Numbers)
                .ok_or_else(|| missing("message", name)),
            Query::None => Err((Code::InvalidArgument, "message_request must be set".to_owned())),
        }
    }
}

/// The two versions differ only in the names of their types.
macro_rules! version {
    ($version:ident) => {
        mod $version {
            use tonic_reflection::pb::$version::{
                ErrorResponse, ExtensionNumberResponse, ExtensionRequest, FileDescriptorResponse,
                ListServiceResponse, ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
                server_reflection_server::{ServerReflection, ServerReflectionServer},
            };

            use super::*;

            pub(super) fn server(index: Arc<Index>) -> ServerReflectionServer<impl ServerReflection> {
                ServerReflectionServer::new(Reflection(index))
            }

            struct Reflection(Arc<Index>);

            #[tonic::async_trait]
            impl ServerReflection for Reflection {
                type ServerReflectionInfoStream =
                    Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

                /// One response for each query, also for an error; only the caller ends the stream.
                async fn server_reflection_info(
                    &self,
                    queries: Request<Streaming<ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    let index = Arc::clone(&self.0);
                    let answers = queries
                        .into_inner()
                        .map(move |query| query.map(|query| answer(&index, query)));
                    Ok(Response::new(Box::pin(answers)))
                }
            }

            fn answer(index: &Index, request: ServerReflectionRequest) -> ServerReflectionResponse {
                let query = match &request.message_request {
                    Some(MessageRequest::ListServices(_)) => Query::Services,
                    Some(MessageRequest::FileByFilename(name)) => Query::File(name),
                    Some(MessageRequest::FileContainingSymbol(name)) => Query::Symbol(name),
                    Some(MessageRequest::FileContainingExtension(wanted)) => {
                        Query::Extension(&wanted.containing_type, wanted.extension_number)
                    }
                    Some(MessageRequest::AllExtensionNumbersOfType(name)) => Query::ExtensionNumbers(name),
                    None => Query::None,
                };
                let response = match index.answer(&query) {
                    Ok(Found::Services(names)) => {
                        MessageResponse::ListServicesResponse(ListServiceResponse {
                            service: names
                                .iter()
                                .map(|name| ServiceResponse { name: name.clone() })
                                .collect(),
                        })
                    }
                    Ok(Found::File(file)) => {
                        MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                            file_descriptor_proto: vec![file.to_vec()],
                        })
                    }
                    Ok(Found::Numbers(numbers)) => {
                        MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                            base_type_name: match &query {
                                Query::ExtensionNumbers(name) => (*name).to_owned(),
                                _ => String::new(),
                            },
                            extension_number: numbers.to_vec(),
                        })
                    }
                    Err((code, error_message)) => MessageResponse::ErrorResponse(ErrorResponse {
                        error_code: code.into(),
                        error_message,
                    }),
                };
                ServerReflectionResponse {
                    valid_host: sanitized(&request.host, MAX_ECHO_CHARS).into_owned(),
                    original_request: Some(echo(request)),
                    message_response: Some(response),
                }
            }

            /// The query with truncated names.
            fn echo(request: ServerReflectionRequest) -> ServerReflectionRequest {
                let cut = |name: String| sanitized(&name, MAX_ECHO_CHARS).into_owned();
                let message_request = request.message_request.map(|query| match query {
                    MessageRequest::ListServices(name) => MessageRequest::ListServices(cut(name)),
                    MessageRequest::FileByFilename(name) => MessageRequest::FileByFilename(cut(name)),
                    MessageRequest::FileContainingSymbol(name) => {
                        MessageRequest::FileContainingSymbol(cut(name))
                    }
                    MessageRequest::FileContainingExtension(wanted) => {
                        MessageRequest::FileContainingExtension(ExtensionRequest {
                            containing_type: cut(wanted.containing_type),
                            extension_number: wanted.extension_number,
                        })
                    }
                    MessageRequest::AllExtensionNumbersOfType(name) => {
                        MessageRequest::AllExtensionNumbersOfType(cut(name))
                    }
                });
                ServerReflectionRequest {
                    host: cut(request.host),
                    message_request,
                }
            }
        }
    };
}

version!(v1);
version!(v1alpha);
