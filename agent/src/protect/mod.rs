//! What an upgrade must leave alone on a node, in three classes ([`class`]), and three defences:
//!
//! * *prevent*: what kubeadm and the package manager run as cannot write sealed paths ([`rules::Rules::bounds`]);
//! * *prove*: a manifest of metadata and BLAKE3 is taken before the first change, and compared at the end of the lease
//!   ([`manifest`], [`compare`]);
//! * *restore*: what was sealed and changed is put back, from copies made when it was sealed ([`findings`], [`repair`]).

pub mod class;
pub mod compare;
pub mod findings;
pub mod keep;
mod kubeadms;
mod logs;
pub mod manifest;
pub mod pack;
pub mod repair;
pub mod report;
pub mod rules;
