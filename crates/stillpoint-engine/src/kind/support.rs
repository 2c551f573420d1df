//! The support matrix: what is saved and what is refused, said once, beside the code that does it.
//!
//! `SUPPORT.md` is generated from these rows; a test keeps it up to date.

/// Whether something is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Saved and rebuilt.
    Saved,
    /// Saved and rebuilt within limits that the detail names; beyond them refused.
    Partly,
    /// Refused, with a reason.
    Refused,
    /// Not part of the tree: neither saved nor lost by it.
    Outside,
}

impl State {
    /// The word in the matrix.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Saved => "saved",
            State::Partly => "partly",
            State::Refused => "refused",
            State::Outside => "outside",
        }
    }
}

/// One row of the support matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupportRow {
    /// What it is: "pipes", "interval timers".
    pub what: &'static str,
    /// Whether it is saved.
    pub state: State,
    /// Which of its states are saved, and what is refused.
    pub detail: &'static str,
    /// The oldest kernel on which this works, as "5.10".
    pub kernel: &'static str,
    /// Operations structures of the kernel that this stands for: `fs/pipe.c: pipefifo_fops`. The kernel audit
    /// counts everything else as uncovered.
    pub operations: &'static [&'static str],
}

impl SupportRow {
    /// A row of what is saved, from which kernel on.
    #[must_use]
    pub const fn saved(what: &'static str, kernel: &'static str, detail: &'static str) -> Self {
        SupportRow { what, state: State::Saved, detail, kernel, operations: &[] }
    }

    /// A row of what is saved within limits, which the detail names.
    #[must_use]
    pub const fn partly(what: &'static str, kernel: &'static str, detail: &'static str) -> Self {
        SupportRow { what, state: State::Partly, detail, kernel, operations: &[] }
    }

    /// A row of what is refused, and why.
    #[must_use]
    pub const fn refused(what: &'static str, detail: &'static str) -> Self {
        SupportRow { what, state: State::Refused, detail, kernel: "", operations: &[] }
    }

    /// The same row, with the operations structures that it stands for.
    #[must_use]
    pub const fn operations(self, operations: &'static [&'static str]) -> Self {
        SupportRow { operations, ..self }
    }
}

/// One table of the support matrix, as Markdown.
#[must_use]
pub fn table(rows: &[SupportRow]) -> String {
    let mut out =
        String::from("| what | state | detail | kernel | kernel structures |\n|---|---|---|---|---|\n");
    for row in rows {
        let operations: Vec<_> = row.operations.iter().map(|name| format!("`{name}`")).collect();
        let cells = [row.what, row.state.as_str(), row.detail, row.kernel, &operations.join(", ")];
        out.push_str("| ");
        out.push_str(&cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
        out.push_str(" |\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_in_a_cell_does_not_end_it() {
        let row = SupportRow {
            what: "a|b",
            state: State::Saved,
            detail: "",
            kernel: "5.10",
            operations: &["x: y"],
        };
        assert!(table(&[row]).ends_with("| a\\|b | saved |  | 5.10 | `x: y` |\n"));
    }
}
