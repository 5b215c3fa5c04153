//! Imitates the Kubernetes API for EndpointSlices of Services, according to its documentation of API
//! concepts: paged lists, watches as JSON lines from a version on, bookmarks, 410 Gone, bearer tokens.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

const PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/weft/endpointslices";
const SELECTOR: &str = "kubernetes.io%2Fservice-name%3D";

/// A running API. Its connections end when it is dropped.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Counts changes, for open watches.
    changed: watch::Sender<u64>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct State {
    version: u64,
    slices: BTreeMap<String, Value>,
    /// Events, each with the version that it created.
    log: Vec<(u64, Value)>,
    /// Watches from before this version get 410 Gone.
    oldest: u64,
    /// Watches that began before this count are cut.
    cuts: u64,
    token: String,
    requests: Vec<String>,
}

type Body = BoxBody<Bytes, Infallible>;

impl Api {
    pub(crate) async fn start(token: &str) -> Api {
        Api::run(token, None).await
    }

    pub(crate) async fn with_tls(token: &str, tls: TlsAcceptor) -> Api {
        Api::run(token, Some(tls)).await
    }

    async fn run(token: &str, tls: Option<TlsAcceptor>) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            version: 100,
            token: token.to_owned(),
            ..State::default()
        }));
        let (changed, changes) = watch::channel(0);
        let mut task = JoinSet::new();
        let shared = Arc::clone(&state);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (shared, changes, tls) = (Arc::clone(&shared), changes.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(tcp, shared, changes).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                serve(stream, shared, changes).await;
                            }
                        }
                    }
                });
            }
        });
        Api {
            address,
            state,
            changed,
            _task: task,
        }
    }

    /// Adds or changes a slice of ready endpoints, each on `port`. It belongs to the Service before the first
    /// `-` of its name.
    pub(crate) fn put(&self, name: &str, port: u16, endpoints: &[Value]) {
        self.change(|state| {
            let kind = if state.slices.contains_key(name) {
                "MODIFIED"
            } else {
                "ADDED"
            };
            let slice = json!({
                "metadata": {"name": name, "resourceVersion": state.version.to_string()},
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
            });
            state.slices.insert(name.to_owned(), slice.clone());
            json!({"type": kind, "object": slice})
        });
    }

    pub(crate) fn delete(&self, name: &str) {
        self.change(|state| {
            let mut slice = state.slices.remove(name).unwrap();
            slice["metadata"]["resourceVersion"] = json!(state.version.to_string());
            json!({"type": "DELETED", "object": slice})
        });
    }

    /// Sends a bookmark, as after a change elsewhere in the cluster.
    pub(crate) fn bookmark(&self) {
        self.change(|state| {
            let metadata = json!({"resourceVersion": state.version.to_string()});
            json!({"type": "BOOKMARK", "object": {"kind": "EndpointSlice", "metadata": metadata}})
        });
    }

    /// Expires all versions up to the current one, for open watches and for later ones.
    pub(crate) fn forget(&self) {
        self.change(|state| {
            state.oldest = state.version;
            let status = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
            json!({"type": "ERROR", "object": status})
        });
    }

    /// Cuts all open watches, in the middle of a line.
    pub(crate) fn cut(&self) {
        self.state.lock().unwrap().cuts += 1;
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn accept_only(&self, token: &str) {
        self.state.lock().unwrap().token = token.to_owned();
    }

    pub(crate) fn version(&self) -> u64 {
        self.state.lock().unwrap().version
    }

    /// The requests in order: `list`, `watch 104` and `401`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    fn change(&self, event: impl FnOnce(&mut State) -> Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let event = event(&mut state);
        let version = state.version;
        state.log.push((version, event));
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }
}

async fn serve<T>(stream: T, state: Arc<Mutex<State>>, changes: watch::Receiver<u64>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &state, &changes);
        async move { Ok::<_, Infallible>(answer) }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(
    request: &Request<Incoming>,
    shared: &Arc<Mutex<State>>,
    changes: &watch::Receiver<u64>,
) -> Response<Body> {
    let mut state = shared.lock().unwrap();
    let bearer = format!("Bearer {}", state.token);
    if request
        .headers()
        .get("authorization")
        .is_none_or(|sent| *sent != bearer)
    {
        state.requests.push("401".to_owned());
        return refusal(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    let query: BTreeMap<&str, &str> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let selector = query.get("labelSelector").copied().unwrap_or_default();
    let Some(service) = selector
        .strip_prefix(SELECTOR)
        .filter(|_| request.uri().path() == PATH)
    else {
        return refusal(StatusCode::NOT_FOUND, "not found");
    };
    if query.get("watch") != Some(&"1") {
        state.requests.push("list".to_owned());
        return list(&state, service, &query);
    }
    let from: u64 = query["resourceVersion"].parse().unwrap();
    state.requests.push(format!("watch {from}"));
    if from < state.oldest {
        return refusal(StatusCode::GONE, "too old resource version");
    }
    let cuts = state.cuts;
    drop(state);
    let service = service.to_owned();
    Response::new(watching(service, from, cuts, Arc::clone(shared), changes.clone()))
}

/// Whether the slice belongs to the Service; so do bookmarks and errors, which name no slice.
fn belongs(slice: Option<&str>, service: &str) -> bool {
    slice.is_none_or(|name| name.split_once('-').is_some_and(|(owner, _)| owner == service))
}

/// At most two slices in one page, whatever the limit of the request, so that paging is tested.
fn list(state: &State, service: &str, query: &BTreeMap<&str, &str>) -> Response<Body> {
    let from = query
        .get("continue")
        .map_or("", |token| token.strip_prefix("after%3A").unwrap());
    let mut rest = state
        .slices
        .iter()
        .filter(|(name, _)| name.as_str() > from && belongs(Some(name), service));
    let page: Vec<_> = rest.by_ref().take(2).collect();
    let last = page.last().map(|(name, _)| format!("after:{name}"));
    let next = rest.next().and(last).unwrap_or_default();
    let items: Vec<_> = page.iter().map(|(_, slice)| slice).collect();
    let metadata = json!({"resourceVersion": state.version.to_string(), "continue": next});
    let answer = json!({"kind": "EndpointSliceList", "metadata": metadata, "items": items});
    Response::new(Full::new(Bytes::from(answer.to_string())).boxed())
}

/// Every event after `from`, each in two chunks.
fn watching(
    service: String,
    from: u64,
    cuts: u64,
    shared: Arc<Mutex<State>>,
    mut changes: watch::Receiver<u64>,
) -> Body {
    let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    // Ends when the reader is dropped.
    drop(tokio::spawn(async move {
        let mut sent = from;
        loop {
            changes.borrow_and_update();
            let (events, cut): (Vec<_>, bool) = {
                let state = shared.lock().unwrap();
                let new = state.log.iter().filter(|(version, _)| *version > sent);
                (new.cloned().collect(), state.cuts > cuts)
            };
            for (version, event) in events {
                sent = version;
                if !belongs(event["object"]["metadata"]["name"].as_str(), &service) {
                    continue;
                }
                let line = format!("{event}\n");
                let (first, second) = line.split_at(line.len() / 2);
                for chunk in [first, second] {
                    let chunk = Bytes::copy_from_slice(chunk.as_bytes());
                    if send.send(Ok(Frame::data(chunk))).await.is_err() {
                        return;
                    }
                }
                if event["type"] == "ERROR" {
                    return;
                }
            }
            if cut {
                let half = Bytes::from_static(br#"{"type":"ADDED","obj"#);
                let _ = send.send(Ok(Frame::data(half))).await;
                return;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = send.closed() => return,
            }
        }
    }));
    StreamBody::new(ReceiverStream::new(receive)).boxed()
}

fn refusal(code: StatusCode, message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "code": code.as_u16(), "message": message});
    let mut response = Response::new(Full::new(Bytes::from(status.to_string())).boxed());
    *response.status_mut() = code;
    response
}
