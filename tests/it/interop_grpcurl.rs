//! gRPC's interoperability cases against our server with grpc-go, which is in `grpcurl`: those that need no program of
//! their own. The others (`ping_pong`, cancellations, compression, a timeout of 1 ms) it cannot express.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Deserializer, Value, json};
use tests::{interop::InteropServer, workspace_root};

use crate::interop_cases::{INITIAL, MESSAGE, REQUEST_BYTES, RESPONSE_BYTES, SIZES, SPECIAL_MESSAGE};

/// `0xababab`.
const TRAILING: (&str, &str) = ("x-grpc-test-echo-trailing-bin", "q6ur");

#[tokio::test(flavor = "multi_thread")]
async fn our_server_passes_the_interop_cases_of_grpc_go() {
    let server = InteropServer::start().await;
    let caller = Caller { server: &server };
    caller.empty_unary_and_empty_stream();
    caller.large_unary();
    caller.client_streaming();
    caller.server_streaming();
    caller.status_code_and_message_and_special_status_message();
    caller.custom_metadata();
    caller.unimplemented_method_and_service();
}

struct Caller<'a> {
    server: &'a InteropServer,
}

impl Caller<'_> {
    fn empty_unary_and_empty_stream(&self) {
        assert_eq!(self.responses("EmptyCall", &[json!({})]), [json!({})]);
        assert_eq!(self.responses("FullDuplexCall", &[]), [Value::Null; 0]);
    }

    fn large_unary(&self) {
        let responses = self.responses("UnaryCall", &[large()]);
        assert_eq!(sizes(&responses), [RESPONSE_BYTES]);
    }

    fn client_streaming(&self) {
        let requests = SIZES.map(|(size, _)| json!({ "payload": payload(size) }));
        let responses = self.responses("StreamingInputCall", &requests);
        assert_eq!(responses, [json!({ "aggregatedPayloadSize": 74_922 })]);
    }

    fn server_streaming(&self) {
        let parameters = SIZES.map(|(_, size)| json!({ "size": size }));
        let request = json!({ "responseParameters": parameters });
        let responses = self.responses("StreamingOutputCall", &[request]);
        assert_eq!(sizes(&responses), SIZES.map(|(_, size)| size));
    }

    fn status_code_and_message_and_special_status_message(&self) {
        for (method, message) in [
            ("UnaryCall", MESSAGE),
            ("FullDuplexCall", MESSAGE),
            ("UnaryCall", SPECIAL_MESSAGE),
        ] {
            let request = json!({ "responseStatus": { "code": 2, "message": message } });
            let status = self.status(&format!("TestService/{method}"), &[request]);
            assert_eq!(
                (&status["code"], &status["message"]),
                (&json!(2), &json!(message))
            );
        }
    }

    fn custom_metadata(&self) {
        let duplex = json!({
            "responseParameters": [{ "size": RESPONSE_BYTES }], "payload": payload(REQUEST_BYTES),
        });
        for (method, request) in [("UnaryCall", large()), ("FullDuplexCall", duplex)] {
            let headers = [INITIAL, TRAILING].map(|(name, value)| format!("{name}: {value}"));
            let sent: Vec<_> = headers
                .iter()
                .flat_map(|header| ["-H", header])
                .chain(["-v"])
                .collect();
            let output = self.call(&sent, &format!("TestService/{method}"), &[request]);
            let text = String::from_utf8_lossy(&output.stdout);
            let (_, rest) = text.split_once("Response headers received:").expect(method);
            let (initial, rest) = rest.split_once("Response contents:").expect(method);
            let (_, trailing) = rest.split_once("Response trailers received:").expect(method);
            assert!(initial.contains(&headers[0]), "{method}: {initial}");
            assert!(trailing.contains(&headers[1]), "{method}: {trailing}");
        }
    }

    fn unimplemented_method_and_service(&self) {
        for method in [
            "TestService/UnimplementedCall",
            "UnimplementedService/UnimplementedCall",
        ] {
            assert_eq!(self.status(method, &[json!({})])["code"], 12, "{method}");
        }
    }

    fn responses(&self, method: &str, requests: &[Value]) -> Vec<Value> {
        let output = self.call(&[], &format!("TestService/{method}"), requests);
        assert!(output.status.success(), "{method}: {}", text(&output.stderr));
        let responses = Deserializer::from_slice(&output.stdout).into_iter();
        responses.collect::<Result<_, _>>().expect(method)
    }

    /// The status with which a call fails.
    fn status(&self, method: &str, requests: &[Value]) -> Value {
        let output = self.call(&["-format-error"], method, requests);
        assert!(!output.status.success(), "{method} succeeded");
        serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|error| panic!("{method}: {error}: {}", text(&output.stderr)))
    }

    fn call(&self, arguments: &[&str], method: &str, requests: &[Value]) -> Output {
        let root = workspace_root();
        let mut command = Command::new(root.join(".tools/bin/grpcurl"));
        for folder in ["tests/proto", "proto", "proto/third_party"] {
            command.arg("-import-path").arg(root.join(folder));
        }
        let mut child = command
            .args(["-plaintext", "-max-time", "120"])
            .args(["-proto", "src/proto/grpc/testing/test.proto", "-d", "@"])
            .args(arguments)
            .args([&self.server.address(), &format!("grpc.testing.{method}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("scripts/setup has installed grpcurl");
        let mut input = child.stdin.take().unwrap();
        for request in requests {
            writeln!(input, "{request}").unwrap();
        }
        drop(input);
        child.wait_with_output().unwrap()
    }
}

fn large() -> Value {
    json!({ "responseSize": RESPONSE_BYTES, "payload": payload(REQUEST_BYTES) })
}

/// Zeros in base64.
fn payload(size: usize) -> Value {
    json!({ "body": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, vec![0; size]) })
}

fn sizes(responses: &[Value]) -> Vec<usize> {
    let bodies = responses
        .iter()
        .map(|response| response["payload"]["body"].as_str());
    bodies
        .map(|body| base64::Engine::decode(&base64::prelude::BASE64_STANDARD, body.unwrap()))
        .map(|body| body.unwrap().len())
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
