//! Who may call what. TLS has checked the chain already; here it is the certificate's role that counts.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::identity::subject::{Peer, Role};
use crate::keeper::Keeper;
use crate::rpc::status;

/// The caller, if its role is one of these and its certificate was not revoked.
pub(super) fn caller<T>(keeper: &Keeper, request: &Request<T>, roles: &[Role]) -> Result<Peer, Status> {
    let certificates = request.peer_certs().unwrap_or_default();
    let Some(certificate) = certificates.first() else {
        return Err(Status::unauthenticated(
            "this call needs a client certificate: agents get one by enrolling, operators by `liftlock login`",
        ));
    };
    let peer =
        Peer::of_certificate(certificate).map_err(|error| Status::unauthenticated(error.to_string()))?;
    keeper.check_peer(&peer).map_err(|error| status(&error))?;
    if roles.contains(&peer.subject.kind) {
        return Ok(peer);
    }
    let allowed: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    Err(Status::permission_denied(format!(
        "{} may not do this, it takes the role {}: ask an operator for a token with that role",
        peer.subject,
        allowed.join(" or "),
    )))
}

/// Lets any certificate of ours through: health and reflection tell nothing that a viewer may not know.
#[derive(Clone)]
pub struct AnyRole(pub Arc<Keeper>);

impl Interceptor for AnyRole {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        caller(&self.0, &request, &[Role::Agent, Role::Operator, Role::Viewer])?;
        Ok(request)
    }
}
