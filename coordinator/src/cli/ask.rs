//! Questions to the agent of one node.

use liftlock_proto::name::NodeName;
use liftlock_proto::v1::asked::Kind;
use liftlock_proto::v1::reply;
use liftlock_proto::v1::{AskRequest, Asked};

use crate::cli::connect::Client;
use crate::cli::error::CliError;

/// Asks, and returns the answer as far as `wanted` takes it.
pub async fn ask<T>(
    client: &mut Client,
    node: &NodeName,
    kind: Kind,
    wanted: impl FnOnce(reply::Kind) -> Option<T>,
) -> Result<T, CliError> {
    let request = AskRequest { node: node.to_string(), asked: Some(Asked { kind: Some(kind) }) };
    let answer = client.ask(request).await?.into_inner();
    answer.reply.and_then(|reply| reply.kind).and_then(wanted).ok_or(CliError::OtherVersion)
}
