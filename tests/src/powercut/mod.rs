//! Power cuts: what a program writes below a folder is recorded call by call as the kernel sees it, and every state that
//! a power cut may have left of it is made again, to be opened by the program that wrote it.
//!
//! [`trace`] follows a child with ptrace, so that nothing of the program is replaced: it runs on the real file system and
//! makes its real calls. [`disk`] says what of these calls a disk may have when the power goes: what was synced for
//! certain, anything else in any mixture.

pub mod disk;
pub mod trace;

pub use disk::{Recording, State};
pub use trace::record;
