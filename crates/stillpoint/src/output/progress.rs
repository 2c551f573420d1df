//! The progress bar, and the answer to the engine's question whether the user interrupted.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stillpoint_engine::{Observer, Phase, RestoreReport};

use crate::interrupt::Interrupt;

/// Work shorter than this shows nothing: a bar that flashes by only disturbs.
const PATIENCE: Duration = Duration::from_millis(400);

/// Watches a checkpoint or restore for the command.
pub(crate) struct Progress {
    interrupt: Interrupt,
    began: Instant,
    terminal: bool,
    phase: Option<(Phase, Option<u64>)>,
    done: u64,
    bar: Option<ProgressBar>,
    announce: Option<Announce>,
}

/// What says that a tree is restored.
type Announce = Box<dyn FnOnce(&RestoreReport)>;

impl Progress {
    /// With a bar where standard error is a terminal and `quiet` is not asked for.
    pub(crate) fn new(interrupt: Interrupt, quiet: bool) -> Self {
        let terminal = !quiet && io::stderr().is_terminal();
        Progress {
            interrupt,
            began: Instant::now(),
            terminal,
            phase: None,
            done: 0,
            bar: None,
            announce: None,
        }
    }

    /// Has a restored tree announced before it runs: from then on the terminal is the tree's.
    pub(crate) fn announce(&mut self, say: impl FnOnce(&RestoreReport) + 'static) {
        self.announce = Some(Box::new(say));
    }

    fn draw(&mut self) {
        let Some((phase, total)) = self.phase else { return };
        if !self.terminal || self.began.elapsed() < PATIENCE {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_position(self.done),
            None => {
                let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
                bar.set_style(style(total.is_some()));
                bar.set_message(words(phase));
                bar.set_position(self.done);
                bar.tick();
                self.bar = Some(bar);
            }
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn phase(&mut self, phase: Phase, total: Option<u64>) {
        self.clear();
        self.done = 0;
        // From here on the terminal may be the restored tree's.
        self.phase = (phase != Phase::Resume).then_some((phase, total.filter(|&bytes| bytes > 0)));
        self.draw();
    }

    fn advance(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        self.draw();
    }

    fn resuming(&mut self, report: &RestoreReport) {
        if let Some(say) = self.announce.take() {
            say(report);
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupt.is_set()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(sized: bool) -> ProgressStyle {
    let template = if sized {
        "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"
    } else {
        "{msg} {spinner} {bytes}"
    };
    // The templates are constants; one that did not parse would give the plain bar.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Freeze => "freezing",
        Phase::Collect => "reading tasks",
        Phase::Pages => "saving memory",
        Phase::Seal => "sealing",
        Phase::Release => "releasing",
        Phase::Verify => "verifying",
        Phase::Plan => "planning",
        Phase::Build => "building tasks",
        Phase::Fill => "filling memory",
        Phase::Resume => "resuming",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_templates_parse() {
        for sized in [true, false] {
            let _ = style(sized);
        }
        assert!(
            ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}").is_ok()
        );
    }

    #[test]
    fn without_a_terminal_nothing_is_drawn() {
        let mut progress = Progress::new(Interrupt::default(), true);
        progress.began = Instant::now().checked_sub(PATIENCE * 2).expect("uptime");
        progress.phase(Phase::Pages, Some(10));
        progress.advance(5);
        assert!(progress.bar.is_none());
        assert!(!progress.interrupted());
    }
}
