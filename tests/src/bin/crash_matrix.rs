//! Every place where a crash could matter, times every fault: see [`liftlock_tests::matrix`].

#[tokio::main]
async fn main() -> std::process::ExitCode {
    liftlock_tests::matrix::main().await
}
