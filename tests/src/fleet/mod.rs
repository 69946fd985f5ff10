//! Liftlock itself, as processes.
