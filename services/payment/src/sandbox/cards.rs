//! The behaviour of the test cards.

use super::operations::Kind;

/// A payment method of the sandbox, by its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Card {
    Approves,
    /// The authorization is refused for this reason.
    Declines(&'static str),
    Slow,
    /// The authorization is executed, but never answered.
    TimesOutCharged,
    /// The authorization never arrives and is never answered.
    TimesOutNotCharged,
    CaptureFails,
    /// The capture is executed, but never answered.
    CaptureTimesOut,
    VoidFails,
    RefundFails,
    /// The refund is executed, but never answered.
    RefundTimesOut,
}

impl Card {
    /// Every token with its card. Any other token is refused as INVALID_PAYMENT_METHOD.
    pub const TOKENS: [(&'static str, Self); 16] = [
        ("tok_visa", Self::Approves),
        ("tok_mastercard", Self::Approves),
        ("tok_amex", Self::Approves),
        ("tok_decline", Self::Declines("CARD_DECLINED")),
        ("tok_insufficient_funds", Self::Declines("INSUFFICIENT_FUNDS")),
        ("tok_expired_card", Self::Declines("EXPIRED_CARD")),
        ("tok_stolen_card", Self::Declines("STOLEN_CARD")),
        ("tok_incorrect_cvc", Self::Declines("INCORRECT_CVC")),
        ("tok_slow", Self::Slow),
        ("tok_timeout_charged", Self::TimesOutCharged),
        ("tok_timeout_not_charged", Self::TimesOutNotCharged),
        ("tok_capture_fails", Self::CaptureFails),
        ("tok_capture_timeout", Self::CaptureTimesOut),
        ("tok_void_fails", Self::VoidFails),
        ("tok_refund_fails", Self::RefundFails),
        ("tok_refund_timeout", Self::RefundTimesOut),
    ];

    /// The card of a token.
    pub fn from_token(token: &str) -> Self {
        let known = Self::TOKENS.into_iter().find(|(name, _)| *name == token);
        known.map_or(Self::Declines("INVALID_PAYMENT_METHOD"), |(_, card)| card)
    }

    /// The refused operations, by token and kind, with the reasons.
    pub(super) fn refusals() -> Vec<(&'static str, Kind, &'static str)> {
        let all = Self::TOKENS.into_iter().flat_map(|(token, card)| {
            let refused = move |kind: Kind| Some((token, kind, card.refusal(kind)?));
            Kind::ALL.into_iter().filter_map(refused)
        });
        all.collect()
    }

    pub(super) fn hangs_on_authorization(self) -> bool {
        matches!(self, Self::TimesOutCharged | Self::TimesOutNotCharged)
    }

    pub(super) fn hangs_on(self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Self::CaptureTimesOut, Kind::Capture) | (Self::RefundTimesOut, Kind::Refund)
        )
    }

    /// The reason why the network refuses this operation on this card, if it does.
    fn refusal(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (Self::CaptureFails, Kind::Capture) => Some("CAPTURE_REFUSED"),
            (Self::VoidFails, Kind::Void) => Some("VOID_REFUSED"),
            (Self::RefundFails, Kind::Refund) => Some("REFUND_REFUSED"),
            _ => None,
        }
    }
}
