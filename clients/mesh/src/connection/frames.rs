//! Reads two facts from a peer's frames that the HTTP/2 library does not expose: the peer's limit of concurrent
//! streams, and a GOAWAY because of too many pings.
//!
//! Parses frame headers (RFC 9113, section 4.1), and the payloads of SETTINGS and GOAWAY up to a bound.

/// Length of a frame's header. Bytes.
const HEADER_LENGTH: usize = 9;
/// How much of a payload is stored. Bytes.
const MAX_PAYLOAD: usize = 256;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const ACK: u8 = 0x1;
const MAX_CONCURRENT_STREAMS: u16 = 0x3;
/// Length of the last stream's number and the error code in GOAWAY. Bytes.
const GOAWAY_FIXED: usize = 8;
const ENHANCE_YOUR_CALM: u32 = 0xb;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// What a frame says about the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameEvent {
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    MaxStreams(usize),
    /// GOAWAY, because the peer was pinged more often than it allows (gRFC A8).
    TooManyPings,
}

/// Parses the frames of one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    header: [u8; HEADER_LENGTH],
    /// Bytes of the header read so far.
    read: usize,
    /// Bytes of the payload not yet read.
    remaining: usize,
    payload: Vec<u8>,
}

impl FrameReader {
    /// Parses the next bytes, which may begin and end anywhere in a frame.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut emit: impl FnMut(FrameEvent)) {
        while !bytes.is_empty() {
            if self.read < HEADER_LENGTH {
                let count = bytes.len().min(HEADER_LENGTH - self.read);
                self.header[self.read..self.read + count].copy_from_slice(&bytes[..count]);
                self.read += count;
                bytes = &bytes[count..];
                if self.read == HEADER_LENGTH {
                    let [high, middle, low, ..] = self.header;
                    self.remaining = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                    self.payload.clear();
                }
            }
            if self.read == HEADER_LENGTH {
                let count = bytes.len().min(self.remaining);
                if self.is_wanted() {
                    let stored = count.min(MAX_PAYLOAD - self.payload.len());
                    self.payload.extend_from_slice(&bytes[..stored]);
                }
                self.remaining -= count;
                bytes = &bytes[count..];
                if self.remaining == 0 {
                    self.read = 0;
                    self.end(&mut emit);
                }
            }
        }
    }

    fn kind(&self) -> (u8, u8) {
        (self.header[3], self.header[4])
    }

    fn is_wanted(&self) -> bool {
        match self.kind() {
            (SETTINGS, flags) => flags & ACK == 0,
            (kind, _) => kind == GOAWAY,
        }
    }

    fn end(&self, emit: &mut impl FnMut(FrameEvent)) {
        match self.kind() {
            (SETTINGS, _) => {
                for entry in self.payload.chunks_exact(6) {
                    let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
                    if u16::from_be_bytes([entry[0], entry[1]]) == MAX_CONCURRENT_STREAMS {
                        emit(FrameEvent::MaxStreams(value as usize));
                    }
                }
            }
            (GOAWAY, _) if self.payload.len() >= GOAWAY_FIXED => {
                let (fixed, debug) = self.payload.split_at(GOAWAY_FIXED);
                let code = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
                if code == ENHANCE_YOUR_CALM && debug == TOO_MANY_PINGS {
                    emit(FrameEvent::TooManyPings);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    }

    fn goaway(code: u8, debug: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 0, 0, 1, 0, 0, 0, code];
        payload.extend_from_slice(debug);
        frame(GOAWAY, 0, &payload)
    }

    fn events(bytes: &[u8], chunk: usize) -> Vec<FrameEvent> {
        let (mut frames, mut events) = (FrameReader::default(), Vec::new());
        for chunk in bytes.chunks(chunk) {
            frames.read(chunk, |event| events.push(event));
        }
        events
    }

    #[test]
    fn settings_and_goaway_are_found_among_other_frames_at_any_chunk_size() {
        let mut bytes = frame(SETTINGS, 0, &[0, 4, 0, 0, 255, 255, 0, 3, 0, 0, 1, 0]);
        bytes.extend(frame(SETTINGS, ACK, &[]));
        bytes.extend(frame(0, 0, &[7; 1_000]));
        bytes.extend(frame(6, 0, &[0; 8]));
        bytes.extend(goaway(0xb, TOO_MANY_PINGS));
        for chunk in [1, 7, 9, 4_096] {
            assert_eq!(
                events(&bytes, chunk),
                [FrameEvent::MaxStreams(256), FrameEvent::TooManyPings]
            );
        }
    }

    #[test]
    fn goaway_for_another_reason_is_not_reported_as_too_many_pings() {
        assert_eq!(events(&goaway(0, TOO_MANY_PINGS), 64), []);
        assert_eq!(events(&goaway(0xb, b"too_many_resets"), 64), []);
        assert_eq!(
            events(&goaway(0xb, &[b'x'; 70_000]), 64),
            [],
            "the payload is stored up to a bound"
        );
    }

    #[test]
    fn bytes_that_are_not_frames_are_ignored() {
        events(b"HTTP/1.1 400 Bad Request\r\n\r\n", 5);
        events(&[0xff; 10_000], 100);
    }
}
