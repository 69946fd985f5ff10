//! The programs of a stand-in node: which one it is follows from the name that it is called by.

fn main() -> std::process::ExitCode {
    liftlock_tests::standin::programs::main()
}
