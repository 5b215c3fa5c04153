//! The post office to which claims are submitted. The trait describes eClaimLink's post office; the sandbox
//! imitates it.

pub mod sandbox;

use chassis::Facility;
use futures_util::future::BoxFuture;
use proto::claims::v1::ClaimDetails;
use uuid::Uuid;

/// A claim to be submitted.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The submission id: the same for every attempt of a cycle, different for every cycle.
    pub id: Uuid,
    /// The claim's facility.
    pub facility: Facility,
    /// The claim's content.
    pub details: ClaimDetails,
}

/// The result of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The payer has accepted it for adjudication.
    Accepted,
    /// It was rejected for this reason.
    Rejected(String),
    /// It was received and is not decided yet.
    Pending,
}

/// There was no answer, or none in time. The submission may or may not have been received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// A post office. Calls are idempotent by submission id.
pub trait PostOffice: Send + Sync + 'static {
    /// Submits a claim. A repetition with the same id is filed once and returns the current verdict.
    fn submit<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>>;

    /// Queries the verdict on an earlier submission.
    fn query<'a>(&'a self, submission: &'a Submission) -> BoxFuture<'a, Result<Verdict, Unavailable>>;
}
