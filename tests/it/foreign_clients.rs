//! The clients in `clients/service-config`: gRPC's libraries for Python and Node follow the contract.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{Attempt, FaultAction, GrpcFaultProxy, Service, Stack, workspace_root};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_other_languages_retry_and_give_up_as_the_contract_says() {
    let stack = Stack::start().await;
    let clerk = stack.token("foreign", &["clerk"]);
    for language in [Language::Python, Language::Node] {
        let client = Client {
            language,
            order: stack.address(Service::Order),
            token: clerk.as_str().to_owned(),
        };
        let order = client.retries_until_its_order_is_placed().await;
        client.reads_it(&order).await;
        client.gives_up_when_the_contract_says(&order).await;
        client.gives_up_sooner_when_asked_to(&order).await;
    }
}

#[derive(Clone, Copy, Debug)]
enum Language {
    Python,
    Node,
}

/// One of the programs, its target and its token.
struct Client {
    language: Language,
    order: String,
    token: String,
}

impl Client {
    async fn retries_until_its_order_is_placed(&self) -> Value {
        let proxy = self
            .proxy(|attempt| match attempt.previous {
                0 | 1 => FaultAction::Reject,
                _ => FaultAction::Forward,
            })
            .await;
        let order = self.answers(&proxy.address(), &["place"]).await;
        assert_eq!(
            order["state"], "ORDER_STATE_CONFIRMED",
            "{:?}: {order:#}",
            self.language
        );

        let attempts = proxy.attempts();
        let previous: Vec<u32> = attempts.iter().map(|attempt| attempt.previous).collect();
        assert_eq!(previous, [0, 1, 2], "{:?}", self.language);
        order
    }

    async fn reads_it(&self, placed: &Value) {
        let read = self.answers(&self.order, &["get", id(placed)]).await;
        assert_eq!(read["id"], placed["id"], "{:?}", self.language);
        assert_eq!(read["lines"], placed["lines"], "{:?}", self.language);

        let unknown = uuid::Uuid::new_v4().to_string();
        let proxy = self.proxy(|_| FaultAction::Forward).await;
        self.fails(&proxy.address(), &["get", &unknown], "NOT_FOUND")
            .await;
        assert_eq!(
            proxy.attempts().len(),
            1,
            "{:?} does not repeat what would fail again",
            self.language
        );
    }

    /// The program sets no deadline: the 5 seconds are the contract's.
    async fn gives_up_when_the_contract_says(&self, order: &Value) {
        let proxy = self.proxy(|_| FaultAction::Ignore).await;
        let started = Instant::now();
        self.fails(&proxy.address(), &["get", id(order)], "DEADLINE_EXCEEDED")
            .await;
        let elapsed = started.elapsed();
        assert!(
            elapsed >= Duration::from_secs(5),
            "{:?} gave up after {elapsed:?}",
            self.language
        );
        self.sent_its_timeout(&proxy, Duration::from_secs(5));
    }

    async fn gives_up_sooner_when_asked_to(&self, order: &Value) {
        let proxy = self.proxy(|_| FaultAction::Ignore).await;
        let arguments = ["--deadline", "2", "get", id(order)];
        self.fails(&proxy.address(), &arguments, "DEADLINE_EXCEEDED")
            .await;
        self.sent_its_timeout(&proxy, Duration::from_secs(2));
    }

    /// Asserts that exactly one attempt was made, and that it sent its remaining time.
    fn sent_its_timeout(&self, proxy: &GrpcFaultProxy, limit: Duration) {
        let timeouts: Vec<_> = proxy.attempts().iter().map(|attempt| attempt.timeout).collect();
        assert!(
            matches!(timeouts[..], [Some(timeout)] if timeout <= limit),
            "{:?} sent {timeouts:?}",
            self.language
        );
    }

    async fn proxy(
        &self,
        action: impl Fn(&Attempt) -> FaultAction + Send + Sync + 'static,
    ) -> GrpcFaultProxy {
        GrpcFaultProxy::start("127.0.0.1:0", &self.order, action)
            .await
            .unwrap()
    }

    /// The order that the program prints.
    async fn answers(&self, target: &str, arguments: &[&str]) -> Value {
        let output = self.run(target, arguments).await;
        assert!(output.status.success(), "{:?}: {output:?}", self.language);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn fails(&self, target: &str, arguments: &[&str], code: &str) {
        let output = self.run(target, arguments).await;
        let expected = format!("{code} after");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(1) && stderr.contains(&expected),
            "{:?}: {output:?}",
            self.language
        );
    }

    async fn run(&self, target: &str, arguments: &[&str]) -> Output {
        let root = workspace_root();
        let mut command = self.language.program(root);
        command
            .args(["--target", target, "--token", &self.token])
            .args(arguments);
        tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .expect("`make setup` has installed what the clients need")
    }
}

impl Language {
    fn program(self, root: &Path) -> Command {
        let (interpreter, file) = match self {
            Language::Python => (root.join(".tools/python/bin/python"), "python/orders.py"),
            Language::Node => ("node".into(), "node/orders.js"),
        };
        let mut command = Command::new(interpreter);
        command
            .arg(root.join("clients/service-config").join(file))
            .env("NODE_PATH", root.join(".tools/grpc-js/node_modules"));
        command
    }
}

fn id(order: &Value) -> &str {
    order["id"].as_str().unwrap()
}
