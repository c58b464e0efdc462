//! What a part of the campaign is, and the table of what all of them found.

use std::fmt::{self, Display, Formatter};

/// How much of it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Runs of each fault; the part's own number where none is said.
    pub(crate) runs: Option<u64>,
}

/// One kind of faults, which can be run alone.
pub(crate) struct Part {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
    /// Does it: panics where a run could not be made, gives rows where it could.
    pub(crate) run: fn(Asked) -> Vec<Row>,
}

/// A line of the table.
pub(crate) struct Row {
    /// The fault, and how often.
    pub(crate) fault: String,
    /// What was found.
    pub(crate) figure: String,
    /// What is to be reached.
    pub(crate) reach: &'static str,
    /// Whether it is.
    pub(crate) reached: bool,
}

/// The table, as ARCHITECTURE.md has it.
pub(crate) struct Table<'a>(pub(crate) &'a [Row]);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "| fault | found | to reach | |\n|---|---|---|---|")?;
        for Row { fault, figure, reach, reached } in self.0 {
            let verdict = if *reached { "reached" } else { "NOT REACHED" };
            writeln!(f, "| {fault} | {figure} | {reach} | {verdict} |")?;
        }
        Ok(())
    }
}

/// The machine, as far as figures depend on it.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, of)| of);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cpu}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
