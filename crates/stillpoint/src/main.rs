//! `stillpoint`: checkpoint a running process tree to one file, and bring it back.
//!
//! This binary is glue. Raw flags (`option/`) are lowered once into the engine's checked options, a subcommand
//! (`command/`) calls the engine, and what the engine answers is printed (`output/`). Everything that touches a
//! task is in `stillpoint-engine`.

#![forbid(unsafe_code)]

mod command;
mod interrupt;
mod option;
mod output;

fn main() -> std::process::ExitCode {
    command::main()
}
