//! Messages whose headers the client cannot read: it closes the connection over one, so it can never be delivered.

use super::{Worker, inbound::Inbound};
use crate::{
    Error, HandlerError,
    dead_letter::Class,
    envelope::Envelope,
    stored_message::{self, StoredMessage},
    streams,
};

impl Worker {
    /// Makes dead letters of such messages among those that were delivered and not acknowledged, and takes them out of
    /// the stream: no consumer of it could get past them.
    pub(super) async fn bury_unreadable(
        &self,
        subjects: &[String],
        epoch: i64,
        acknowledged: u64,
        delivered: u64,
    ) -> Result<(), Error> {
        let jetstream = self.bus.jetstream();
        for subject in subjects {
            let mut from = acknowledged + 1;
            while from <= delivered {
                let next = stored_message::next(&jetstream, streams::EVENTS, subject, from).await?;
                let Some(message) = next.filter(|message| message.sequence <= delivered) else {
                    break;
                };
                from = message.sequence + 1;
                if let Some(why) = message.unreadable {
                    self.bury_stored(message, why, epoch).await?;
                }
            }
        }
        Ok(())
    }

    async fn bury_stored(&self, message: StoredMessage, why: &str, epoch: i64) -> Result<(), Error> {
        let sequence = message.sequence;
        let error = HandlerError::schema("HEADERS_MALFORMED", why);
        let (envelope, _) = Envelope::read(&message.headers, streams::EVENTS, sequence);
        let inbound = Inbound::stored(message, envelope, why);
        self.bury(&inbound, epoch, Class::Schema, &error, None).await?;
        let stream = self.bus.jetstream().get_stream(streams::EVENTS).await;
        let stream = stream.map_err(Error::broker)?;
        stream.delete_message(sequence).await.map_err(Error::broker)?;
        tracing::error!(
            consumer = self.name,
            stream.sequence = sequence,
            error = why,
            "a message with headers that no client can read was taken out of the stream; it is a dead letter"
        );
        Ok(())
    }
}
