//! Memory of huge pages: this machine may have none free, so some are added for the time of the test and given back.

use stillpoint_testkit::harness::{Outcome, Who, skip, two_rounds};

const POOL: &str = "/proc/sys/vm/nr_hugepages";

/// More huge pages, until it is dropped.
struct Pool {
    before: u64,
}

impl Pool {
    fn grow(by: u64) -> Option<Self> {
        let size = || std::fs::read_to_string(POOL).ok()?.trim().parse::<u64>().ok();
        let before = size()?;
        let pool = Pool { before };
        std::fs::write(POOL, (before + by).to_string()).ok()?;
        (size()? == before + by).then_some(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(POOL, self.before.to_string());
    }
}

#[test]
fn huge_pages_survive_two_rounds() -> Outcome {
    if !Who::Root.can_run() {
        return Ok(());
    }
    let Some(_pool) = Pool::grow(8) else {
        skip("no huge pages can be added here");
        return Ok(());
    };
    two_rounds("areas", Who::Root)?;
    two_rounds("areas", Who::User)
}
