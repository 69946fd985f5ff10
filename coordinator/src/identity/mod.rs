//! Who speaks: the coordinator's own CA, the certificates it signs, and the join tokens that buy them.

pub mod authority;
pub mod files;
pub mod revocation;
pub mod subject;
pub mod token;
