//! The request id of a command, which makes the command repeatable without a second effect.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use uuid::Uuid;

/// A command's only request id: that of `--request-id`, or a new one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestId(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    id: OnceLock<Uuid>,
    sent: AtomicBool,
}

impl RequestId {
    /// Sets the id of `--request-id`. Has no effect if there is an id already.
    pub(crate) fn set(&self, id: Uuid) {
        self.0.id.get_or_init(|| id);
    }

    /// The id; creates one if there is none.
    pub(crate) fn get(&self) -> String {
        self.0.id.get_or_init(Uuid::new_v4).to_string()
    }

    /// Records that the id is sent, if the encoded `message` contains it.
    pub(crate) fn track(&self, message: &[u8]) {
        let Some(id) = self.0.id.get() else { return };
        let id = id.to_string();
        // A random UUID does not occur in a message by chance.
        if message.windows(id.len()).any(|part| part == id.as_bytes()) {
            self.0.sent.store(true, Ordering::Relaxed);
        }
    }

    /// The id, if a request with it was sent and may have taken effect.
    pub(crate) fn sent(&self) -> Option<String> {
        self.0.sent.load(Ordering::Relaxed).then(|| self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_reported_once_a_request_with_it_was_sent() {
        let request_id = RequestId::default();
        request_id.track(b"a look-up beforehand");
        assert_eq!(request_id.sent(), None);
        let id = request_id.get();
        request_id.track(b"another look-up");
        assert_eq!(request_id.sent(), None);
        request_id.track(format!("before {id} after").as_bytes());
        assert_eq!(request_id.sent(), Some(id));
    }

    #[test]
    fn the_id_of_the_command_line_is_the_one_that_is_sent() {
        let request_id = RequestId::default();
        let given = Uuid::from_u128(7);
        request_id.set(given);
        assert_eq!(request_id.get(), given.to_string());
    }
}
