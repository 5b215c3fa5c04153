//! The card sandbox by itself: each key takes effect once.

use chassis::Tasks;
use money::{Currency, Money};
use payment::{
    config,
    processor::{Authorize, CallStatus, Capture, Dispatch, Outcome, Processor as _, Refund, Void},
    sandbox::Sandbox,
};
use tests::Service;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::payment_fixture::{Fixture, Statement};

fn aed(minor: i64) -> Money {
    Money::new(minor, Currency::AED)
}

fn authorization(order: Uuid, token: &str) -> Authorize {
    Authorize {
        key: Uuid::new_v4(),
        token: token.to_owned(),
        amount: aed(1_000),
        merchant_reference: format!("{order}:SHARE"),
    }
}

async fn sandbox(fixture: &Fixture) -> Sandbox {
    let pool = fixture.stack.database(Service::Payment).app().await;
    Sandbox::new(
        pool,
        &config::Sandbox {
            hang_ms: 50,
            ..config::Sandbox::default()
        },
        &Tasks::new(CancellationToken::new()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_repetitions_of_a_call_take_effect_once_and_answer_alike() {
    let fixture = Fixture::start().await;
    let (sandbox, dispatch) = (sandbox(&fixture).await, Dispatch::default());
    let order = Uuid::new_v4();
    let authorize = authorization(order, "tok_visa");
    let capture = Capture {
        key: Uuid::new_v4(),
        authorization: authorize.key,
        amount: aed(800),
    };
    let refund = Refund {
        key: Uuid::new_v4(),
        authorization: authorize.key,
        amount: aed(300),
    };

    let answers =
        futures_util::future::join_all((0..16).map(|_| sandbox.authorize(&authorize, &dispatch))).await;
    same(answers);
    let answers = futures_util::future::join_all((0..16).map(|_| sandbox.capture(&capture, &dispatch))).await;
    same(answers);
    let answers = futures_util::future::join_all((0..16).map(|_| sandbox.refund(&refund, &dispatch))).await;
    same(answers);
    let statement = Statement {
        holds: 1,
        charges: 1,
        charged: 800,
        given_back: 300,
    };
    assert_eq!(fixture.statement(order).await, statement);

    let second = Capture {
        key: Uuid::new_v4(),
        ..capture
    };
    let refused = Outcome::Refused {
        reason: "ALREADY_CAPTURED".to_owned(),
    };
    assert_eq!(sandbox.capture(&second, &dispatch).await.unwrap(), refused);
    let beyond = Refund {
        key: Uuid::new_v4(),
        amount: aed(501),
        ..refund
    };
    assert!(matches!(
        sandbox.refund(&beyond, &dispatch).await.unwrap(),
        Outcome::Refused { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_voided_before_it_arrives_is_refused_when_it_does() {
    let fixture = Fixture::start().await;
    let (sandbox, dispatch) = (sandbox(&fixture).await, Dispatch::default());
    for token in ["tok_visa", "tok_timeout_charged", "tok_timeout_not_charged"] {
        let order = Uuid::new_v4();
        let late = authorization(order, token);
        assert_eq!(sandbox.query(late.key).await.unwrap(), CallStatus::NotFound);
        let void = Void {
            key: Uuid::new_v4(),
            authorization: late.key,
        };
        assert!(matches!(
            sandbox.void(&void, &dispatch).await.unwrap(),
            Outcome::Approved { .. }
        ));
        let refused = Outcome::Refused {
            reason: "AUTHORIZATION_VOIDED".to_owned(),
        };
        assert_eq!(
            sandbox.authorize(&late, &dispatch).await.unwrap(),
            refused,
            "{token}"
        );
        assert_eq!(
            sandbox.query(late.key).await.unwrap(),
            CallStatus::Completed(refused),
            "{token}"
        );
        assert_eq!(fixture.statement(order).await.holds, 0, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_can_be_queried_whether_or_not_it_took_effect() {
    let fixture = Fixture::start().await;
    let (sandbox, dispatch) = (sandbox(&fixture).await, Dispatch::default());
    for (token, there) in [("tok_timeout_charged", true), ("tok_timeout_not_charged", false)] {
        let call = authorization(Uuid::new_v4(), token);
        assert!(sandbox.authorize(&call, &dispatch).await.is_err());
        let standing = sandbox.query(call.key).await.unwrap();
        assert_eq!(
            matches!(standing, CallStatus::Completed(Outcome::Approved { .. })),
            there,
            "{token}: {standing:?}"
        );
        assert_eq!(standing == CallStatus::NotFound, !there, "{token}");
    }
}

fn same<E: std::fmt::Debug>(answers: Vec<Result<Outcome, E>>) {
    let answers: Vec<Outcome> = answers.into_iter().map(Result::unwrap).collect();
    assert!(matches!(answers[0], Outcome::Approved { .. }));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_all_cards_at_once_have_each_its_own_outcome() {
    let fixture = Fixture::start().await;
    let (sandbox, order) = (sandbox(&fixture).await, Uuid::new_v4());
    let authorized = futures_util::future::join_all((0..64).map(|at| {
        let (token, sandbox) = (
            ["tok_visa", "tok_decline", "tok_capture_fails", "tok_refund_fails"][at % 4],
            &sandbox,
        );
        async move {
            let call = authorization(order, token);
            (
                token,
                call.key,
                sandbox.authorize(&call, &Dispatch::default()).await.unwrap(),
            )
        }
    }))
    .await;
    let refused = |reason: &str| Outcome::Refused {
        reason: reason.to_owned(),
    };
    for (token, _, outcome) in &authorized {
        match *token {
            "tok_decline" => assert_eq!(*outcome, refused("CARD_DECLINED")),
            _ => assert!(
                matches!(outcome, Outcome::Approved { .. }),
                "{token}: {outcome:?}"
            ),
        }
    }
    let sandbox = &sandbox;
    let captured = futures_util::future::join_all(authorized.into_iter().map(
        |(token, authorization, _)| async move {
            let capture = Capture {
                key: Uuid::new_v4(),
                authorization,
                amount: aed(1_000),
            };
            let refund = Refund {
                key: Uuid::new_v4(),
                authorization,
                amount: aed(400),
            };
            let captured = sandbox.capture(&capture, &Dispatch::default()).await.unwrap();
            let refunded = sandbox.refund(&refund, &Dispatch::default()).await.unwrap();
            (token, captured, refunded)
        },
    ))
    .await;
    for (token, captured, refunded) in captured {
        let is = |outcome: &Outcome, reason: &str| *outcome == refused(reason);
        match token {
            "tok_decline" => assert!(is(&captured, "NO_SUCH_AUTHORIZATION"), "{captured:?}"),
            "tok_capture_fails" => assert!(is(&captured, "CAPTURE_REFUSED"), "{captured:?}"),
            _ => assert!(
                matches!(captured, Outcome::Approved { .. }),
                "{token}: {captured:?}"
            ),
        }
        match token {
            "tok_decline" | "tok_capture_fails" => assert!(is(&refunded, "BEYOND_CAPTURED"), "{refunded:?}"),
            "tok_refund_fails" => assert!(is(&refunded, "REFUND_REFUSED"), "{refunded:?}"),
            _ => assert!(matches!(refunded, Outcome::Approved { .. }), "{refunded:?}"),
        }
    }
    let statement = Statement {
        holds: 48,
        charges: 32,
        charged: 32_000,
        given_back: 16 * 400,
    };
    assert_eq!(fixture.statement(order).await, statement);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_cancelled_before_it_was_sent_never_arrives() {
    let fixture = Fixture::start().await;
    let (sandbox, dispatch) = (sandbox(&fixture).await, Dispatch::default());
    let call = authorization(Uuid::new_v4(), "tok_visa");
    assert!(dispatch.cancel());
    assert!(sandbox.authorize(&call, &dispatch).await.is_err());
    assert_eq!(sandbox.query(call.key).await.unwrap(), CallStatus::NotFound);
    assert!(sandbox.authorize(&call, &Dispatch::default()).await.is_ok());
}
