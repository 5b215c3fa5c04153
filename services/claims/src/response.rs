//! The response to a mutating request.

/// The response to a mutating request, and whether it is a stored one.
#[derive(Debug)]
pub enum Response<M> {
    /// The result of this execution.
    New(M),
    /// The stored response to an earlier execution of the same request, encoded.
    Replayed(Vec<u8>),
}
