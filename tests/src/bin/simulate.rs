//! `cargo run -rq -p liftlock-tests --bin simulate`: see [`liftlock_tests::simulation`].

fn main() -> anyhow::Result<std::process::ExitCode> {
    liftlock_tests::simulation::main()
}
