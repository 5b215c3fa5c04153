//! Decides whether a channel sends the bearer token of a call's context.

use http::{HeaderMap, header::AUTHORIZATION};
use tonic::Status;

use crate::{BearerTokens, ChannelOptions, Context, discovery::is_exposed};

/// What happens to the context's token, as determined by the channel's options and target.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tokens {
    Send,
    Refuse,
    Withhold,
}

impl Tokens {
    pub(super) fn new(options: &ChannelOptions) -> Tokens {
        match options.tuning.bearer {
            BearerTokens::Never => Tokens::Withhold,
            BearerTokens::Secured if is_exposed(&options.target, options.tuning.proxy.is_some()) => {
                Tokens::Refuse
            }
            BearerTokens::Secured | BearerTokens::Plaintext => Tokens::Send,
        }
    }

    /// The context of the call, with or without its token.
    ///
    /// # Errors
    /// UNAUTHENTICATED if the token would be sent in plaintext, as gRPC refuses call credentials there.
    pub(super) fn apply(self, context: Context, headers: &HeaderMap) -> Result<Context, Status> {
        match self {
            Tokens::Send => Ok(context),
            Tokens::Withhold => Ok(context.without_bearer()),
            // A token that the application has set in the headers itself is always sent.
            Tokens::Refuse if context.bearer().is_none() || headers.contains_key(AUTHORIZATION) => {
                Ok(context)
            }
            Tokens::Refuse => Err(Status::unauthenticated(
                "the call was not sent: its token would cross the network in the clear; use https://, or allow it by \
                 setting `bearer` to `plaintext`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_sent_only_over_tls_or_to_this_machine_unless_plaintext_is_allowed() {
        let outcome = |target: &str, bearer: BearerTokens| {
            let mut options = ChannelOptions::new(target, "a", "b");
            options.tuning.bearer = bearer;
            let context = Context::new().with_bearer("t");
            let context = Tokens::new(&options).apply(context, &HeaderMap::new());
            context.map(|context| context.bearer().is_some()).ok()
        };
        let (near, far, secured) = ("static:http://127.0.0.1:1", "dns:http://a:1", "dns:https://a:1");
        for (target, bearer, expected) in [
            (near, BearerTokens::Secured, Some(true)),
            (secured, BearerTokens::Secured, Some(true)),
            (far, BearerTokens::Secured, None),
            (far, BearerTokens::Plaintext, Some(true)),
            (secured, BearerTokens::Never, Some(false)),
            (near, BearerTokens::Never, Some(false)),
        ] {
            assert_eq!(outcome(target, bearer), expected, "{target} {bearer:?}");
        }
    }

    #[test]
    fn through_a_proxy_a_token_needs_tls_for_every_target() {
        for (target, sent) in [
            ("static:http://127.0.0.1:1", false),
            ("static:https://127.0.0.1:1", true),
        ] {
            let mut options = ChannelOptions::new(target, "a", "b");
            options.tuning.proxy = Some("http://proxy:3128".parse().unwrap());
            let context = Context::new().with_bearer("t");
            let context = Tokens::new(&options).apply(context, &HeaderMap::new());
            assert_eq!(context.is_ok(), sent, "{target}");
        }
    }

    #[tokio::test]
    async fn a_call_refused_before_it_begins_has_the_origin_not_sent() {
        let policies = crate::Policies::from_methods([]);
        let options = ChannelOptions::new("dns:http://far:1", "a", "b");
        let mut channel = crate::Channel::connect(options, &policies).unwrap();
        let mut request = http::Request::new(tonic::body::Body::empty());
        request.extensions_mut().insert(Context::new().with_bearer("t"));
        let refused = tower::Service::call(&mut channel, request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        assert_eq!(crate::Origin::from_status(&refused), crate::Origin::NotSent);
    }
}
