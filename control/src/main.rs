//! `onair`: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    control::heap::set_up();
    match control::cli::run(std::env::args_os()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("onair: {error:#}");
            ExitCode::FAILURE
        }
    }
}
