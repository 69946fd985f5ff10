//! `cargo demo`: see [`liftlock_tests::demo`].

#[tokio::main]
async fn main() -> std::process::ExitCode {
    liftlock_tests::demo::main().await
}
