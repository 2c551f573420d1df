//! The commit: every task is let go of.
//!
//! Until here each process dies with this one, by PTRACE_O_EXITKILL on one of its threads at least. A process whose
//! threads are all free of it runs on whatever happens. So the option is taken from the other threads first, which
//! changes nothing, and then from the leaders in one go. That is the commit of a process, in one step; a tree of
//! several processes is committed in as many steps, with nothing between them: should this process be killed in that
//! moment (less than a microsecond for each), part of the tree is left.

use stillpoint_sys::ptrace::Stopped;

use super::build::Builder;
use crate::Result;

impl Builder<'_> {
    /// Lets every task go: from here on they run.
    pub(super) fn commit(mut self) -> Result<()> {
        let threads = self.made.iter().flat_map(|made| made.threads.iter().skip(1));
        free(threads.filter_map(|(_, stopped)| stopped.as_ref()))?;
        let leaders = self.made.iter().filter_map(|made| made.threads.first()?.1.as_ref());
        let leaders: Vec<&Stopped> = leaders.collect();
        free(leaders.into_iter())?;
        for made in std::mem::take(&mut self.made) {
            for stopped in made.threads.into_iter().filter_map(|(_, stopped)| stopped) {
                match stopped.detach(0) {
                    // Somebody has killed it: that is its fate then, as that of any running task.
                    Err(error) if error.errno() == Some(libc::ESRCH) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

fn free<'a>(threads: impl Iterator<Item = &'a Stopped>) -> Result<()> {
    for stopped in threads {
        match stopped.set_options(0) {
            Err(error) if error.errno() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}
