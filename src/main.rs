//! Exit codes only.
use std::process::ExitCode;

fn main() -> ExitCode {
    seedcache::cli::main()
}
