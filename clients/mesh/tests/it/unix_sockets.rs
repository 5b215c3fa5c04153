//! Calls over Unix sockets.

use crate::echo::{self, READ, Server};
use weft_mesh::{Channel, ChannelOptions, Context};

fn options(target: String) -> ChannelOptions {
    let mut options = echo::options(&[]);
    options.target = target;
    options
}

#[tokio::test]
async fn calls_and_their_tokens_are_sent_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let _server = Server::on_unix_socket(&path, |headers| async move {
        Ok(headers["authorization"].to_str().unwrap().to_owned())
    });
    let path = path.to_str().unwrap();
    for target in [format!("unix:{path}"), format!("unix://{path}")] {
        let channel = Channel::connect(options(target), &echo::policies()).unwrap();
        let caller = Context::new().with_bearer("token");
        let answer = caller.scope(echo::call_empty(&channel, READ)).await;
        assert_eq!(answer.unwrap(), "Bearer token", "the socket counts as secured");
        let endpoints = channel.snapshot().endpoints;
        let [endpoint] = endpoints.as_slice() else {
            panic!("one endpoint")
        };
        assert_eq!(
            (endpoint.authority.as_str(), endpoint.address.as_str()),
            ("localhost", path)
        );
    }
}

#[tokio::test]
async fn a_server_that_is_restarted_on_the_same_path_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let mut options = options(format!("unix:{}", path.display()));
    options.tuning.wait_for_ready = true;
    let channel = Channel::connect(options, &echo::policies()).unwrap();
    for answer in ["first", "second"] {
        let server = Server::on_unix_socket(&path, move |_| async move { Ok(answer.to_owned()) });
        while echo::call_empty(&channel, READ).await.ok().as_deref() != Some(answer) {}
        drop(server);
    }
}

#[tokio::test]
async fn a_call_to_a_socket_that_does_not_exist_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let target = format!("unix:{}", folder.path().join("absent.sock").display());
    let channel = Channel::connect(options(target), &echo::policies()).unwrap();
    let status = echo::call_empty(&channel, READ).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(
        status.message().contains("cannot connect"),
        "{}",
        status.message()
    );
}
