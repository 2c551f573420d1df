//! Ctrl-C and its like: a signal sets a flag, the engine asks for it and undoes what it has begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use stillpoint_engine::{Code, Error, Result};

/// Whether one of the signals that end a command has arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP do not end the process but set the flag. One that this process was told
    /// to ignore, as by nohup(1) or by a shell for its background jobs, stays ignored.
    pub(crate) fn install() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let ignored = ignored();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if ignored & (1 << (signal - 1)) != 0 {
                continue;
            }
            signal_hook::flag::register(signal, Arc::clone(&interrupt.0)).map_err(|error| {
                Error::new(Code::Failed, format!("watching for signal {signal}")).cause(error)
            })?;
        }
        Ok(interrupt)
    }

    /// Whether a signal has arrived.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The signals that this process ignores. What cannot be read is none.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_sets_the_flag() {
        let interrupt = Interrupt::install().expect("register");
        assert!(!interrupt.is_set());
        signal_hook::low_level::raise(SIGHUP).expect("raise");
        assert!(interrupt.is_set());
    }
}
