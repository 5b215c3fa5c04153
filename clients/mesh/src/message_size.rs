//! Enforces `maxRequestMessageBytes` and `maxResponseMessageBytes` on each message of a body.

use std::{
    pin::Pin,
    task::{Context as Task, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

/// The compression flag and the message's length (gRPC over HTTP/2, "Length-Prefixed-Message"). Bytes.
const PREFIX_LENGTH: usize = 5;

/// A limit of the service config: the setting's name, and the maximum size of a message in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageLimit {
    pub(crate) setting: &'static str,
    pub(crate) bytes: u32,
}

impl MessageLimit {
    /// Makes the body fail with RESOURCE_EXHAUSTED at the first message that is larger.
    pub(crate) fn apply(self, body: Body) -> Body {
        Body::new(LimitedBody {
            body,
            limit: self,
            prefix: [0; PREFIX_LENGTH],
            read: 0,
            left: 0,
        })
    }
}

struct LimitedBody {
    body: Body,
    limit: MessageLimit,
    prefix: [u8; PREFIX_LENGTH],
    /// Bytes of the prefix read so far.
    read: usize,
    /// Bytes of the message not yet read.
    left: usize,
}

impl LimitedBody {
    fn check(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.left > 0 {
                let count = data.len().min(self.left);
                self.left -= count;
                data = &data[count..];
                continue;
            }
            let count = data.len().min(PREFIX_LENGTH - self.read);
            self.prefix[self.read..self.read + count].copy_from_slice(&data[..count]);
            self.read += count;
            data = &data[count..];
            if self.read == PREFIX_LENGTH {
                self.read = 0;
                let [_, length @ ..] = self.prefix;
                let (length, MessageLimit { setting, bytes }) = (u32::from_be_bytes(length), self.limit);
                if length > bytes {
                    let text = format!("a message of {length} bytes is larger than {setting} ({bytes})");
                    return Err(Status::resource_exhausted(text));
                }
                self.left = length as usize;
            }
        }
        Ok(())
    }
}

impl HttpBody for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let data = match &frame {
            Some(Ok(frame)) => frame.data_ref(),
            _ => None,
        };
        if let Some(Err(status)) = data.map(|data| this.check(data)) {
            // Dropping the body resets the stream.
            this.body = Body::empty();
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    async fn passes(messages: &[usize], chunk: usize, bytes: u32) -> bool {
        let mut all = Vec::new();
        for length in messages {
            all.push(0);
            all.extend_from_slice(&(*length as u32).to_be_bytes());
            all.extend(std::iter::repeat_n(7, *length));
        }
        let frames: Vec<_> = all
            .chunks(chunk)
            .map(|chunk| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let setting = "maxResponseMessageBytes";
        let limit = MessageLimit { setting, bytes };
        let body = limit.apply(Body::new(StreamBody::new(futures_util::stream::iter(frames))));
        body.collect().await.is_ok()
    }

    #[tokio::test]
    async fn each_message_is_bounded_and_not_their_sum_at_any_chunk_size() {
        for chunk in [1, 4, 7, 4_096] {
            assert!(passes(&[10, 0, 10, 10], chunk, 10).await);
            assert!(!passes(&[10, 0, 11], chunk, 10).await);
        }
    }
}
