use tonic_types::ErrorDetails;

use super::*;

#[test]
fn json_is_wanted_in_every_spelling_of_the_option() {
    let wants = |text: &str| super::wants_json(text.split(' ').map(str::to_owned));
    for json in [
        "-o json order",
        "order --output json",
        "--output=json",
        "-ojson",
        "-o=json",
    ] {
        assert!(wants(json), "{json}");
    }
    for other in ["-o table order", "order -- -o json", "order list"] {
        assert!(!wants(other), "{other}");
    }
}

#[test]
fn reason_violations_and_the_next_command_are_printed() {
    let mut details = ErrorDetails::with_bad_request_violation("lines[0].quantity", "must be above zero");
    details.set_error_info("INVALID_REQUEST", "weft", std::collections::HashMap::new());
    let message = "the request is invalid: lines[0].quantity: must be above zero";
    let status = Status::with_error_details(Code::InvalidArgument, message, details);
    let text = CallFailure {
        method: "order.v1.OrderService/PlaceOrder",
        status,
    }
    .to_text(None);
    assert!(
        text.contains("PlaceOrder answered INVALID_ARGUMENT (INVALID_REQUEST)"),
        "{text}"
    );
    assert!(
        text.ends_with("invalid\n  - lines[0].quantity: must be above zero"),
        "{text}"
    );

    let status = Status::not_found("no such saga");
    let call = CallFailure {
        method: "ops.v1.SagaService/GetSaga",
        status,
    };
    assert_eq!(call.next_command(None).as_deref(), Some("weft saga list"));
}

#[test]
fn a_call_without_a_known_outcome_is_repeated_under_its_request_id() {
    for code in [
        Code::DeadlineExceeded,
        Code::Unavailable,
        Code::Cancelled,
        Code::Aborted,
        Code::Unknown,
        Code::Internal,
        Code::DataLoss,
        Code::ResourceExhausted,
    ] {
        let status = Status::new(code, "");
        let call = CallFailure {
            method: "order.v1.OrderService/PlaceOrder",
            status,
        };
        let next = call.next_command(Some("01a2")).unwrap_or_default();
        assert!(
            next.starts_with("the same command again with --request-id 01a2"),
            "{code:?}: {next}"
        );
        assert_eq!(call.to_json(Some("01a2"))["requestId"], "01a2");
    }
}

#[test]
fn a_final_failure_suggests_no_retry() {
    let mut details = ErrorDetails::with_retry_info(Some(std::time::Duration::ZERO));
    details.set_error_info("MESSAGE_TOO_LARGE", "weft", std::collections::HashMap::new());
    let status = Status::with_error_details(Code::ResourceExhausted, "too large", details);
    let call = CallFailure {
        method: "claims.v1.ClaimService/ResubmitClaim",
        status,
    };
    let json = call.to_json(Some("01a2"));
    assert!(json["retryDelayMs"].is_null() && json["next"].is_null(), "{json}");
}

#[test]
fn the_next_command_is_one_that_exists() {
    use clap::Parser as _;
    let policies = policies::policies().unwrap();
    let is_weft = |path: &&str| !path.starts_with("/grpc.");
    for path in policies.iter().map(|(path, _)| path).filter(is_weft) {
        let (list, look) = commands(path.trim_start_matches('/'));
        let id = "018f2d5e-0000-7000-8000-000000000001";
        for next in [list.to_owned(), look.replace("ID", id)] {
            let read = crate::cli::Cli::try_parse_from(["weft"].into_iter().chain(next.split(' ')));
            assert!(read.is_ok(), "{path}: weft {next}");
        }
    }
}
