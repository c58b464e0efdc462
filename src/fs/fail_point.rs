//! Fail points: places before and after the steps that change the disk or a state, where tests end the process as SIGKILL
//! does. Only with the feature `failpoints`; without it [`fail_point`] is nothing.
//!
//! What must hold: every point that the sources name is in [`FAIL_POINTS`] or [`RARE_FAIL_POINTS`] and the other way round, so
//! that who goes through the lists leaves none out.

/// Ends the process here where the environment's FAILPOINTS says so: `name=2*off->return` does at the third time.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn fail_point(_name: &'static str) {}

#[cfg(feature = "failpoints")]
pub use armed::{ArmedFailPoints, FAIL_POINTS, RARE_FAIL_POINTS};
#[cfg(feature = "failpoints")]
pub(crate) use armed::{arm_fail_points, fail_point};

#[cfg(feature = "failpoints")]
mod armed {
    use rustix::process::{Signal, getpid, kill_process};

    /// Ends the process here where the environment's FAILPOINTS says so: `name=2*off->return` does at the third time.
    pub(crate) fn fail_point(name: &'static str) {
        fail::eval(name, |_| {
            // No destructor, no flush: what a kill leaves is what this leaves.
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        });
    }

    /// What FAILPOINTS says holds while this does.
    #[derive(Debug)]
    pub struct ArmedFailPoints(#[expect(dead_code, reason = "held, not used")] fail::FailScenario<'static>);

    /// Reads FAILPOINTS.
    pub(crate) fn arm_fail_points() -> ArmedFailPoints {
        ArmedFailPoints(fail::FailScenario::setup())
    }

    /// The fail points that only damage, or an error of the disk, leads to: load alone does not.
    pub const RARE_FAIL_POINTS: &[&str] = &[
        "store.index.before-aside",
        "store.index.after-clearing",
        "store.index.after-aside",
        "store.json.before-aside",
        "store.json.after-aside",
        "store.publish.before-taking-back",
        "store.publish.after-taking-back",
        "store.quarantine.after-here",
    ];

    /// Every other fail point, in the order of the rooms.
    pub const FAIL_POINTS: &[&str] = &[
        "store.format.before-write",
        "store.format.after-write",
        "store.current.before-switch",
        "store.current.after-switch",
        "store.current.before-unlink",
        "store.current.after-unlink",
        "store.publish.before-archive",
        "store.publish.after-archive",
        "store.publish.before-sync",
        "store.publish.after-sync",
        "store.publish.before-clearing",
        "store.publish.after-clearing",
        "store.publish.before-rename",
        "store.publish.after-rename",
        "store.publish.after-durable",
        "store.manifest.before-write",
        "store.manifest.after-write",
        "store.manifest.after-sync",
        "store.share.before-rename",
        "store.share.after-rename",
        "store.give.before-link",
        "store.give.after-link",
        "store.staging.before-note",
        "store.staging.after-note",
        "store.staging.before-discarding",
        "store.staging.after-part",
        "store.staging.after-discarding",
        "store.staging.before-tree",
        "store.staging.after-tree",
        "store.staging.before-removal",
        "store.staging.after-removal",
        "store.staged.before-removal",
        "store.staged.after-removal",
        "store.pins.before-write",
        "store.pins.after-write",
        "store.leases.before-write",
        "store.leases.after-write",
        "store.clock.before-write",
        "store.clock.after-write",
        "store.drain.before-rename",
        "store.drain.after-rename",
        "store.drain.before-removal",
        "store.drain.after-removal",
        "store.quarantine.before-archive",
        "store.quarantine.after-archive",
        "store.quarantine.before-repaired",
        "store.quarantine.after-repaired",
        "store.quarantine.after-head",
        "store.quarantine.before-version",
        "store.quarantine.after-version",
        "store.quarantine.before-place",
        "store.quarantine.after-clearing",
        "store.quarantine.after-place",
        "store.quarantine.after-reason",
        "store.quarantine.before-removal",
        "store.quarantine.after-removal",
        "store.index.before-flush",
        "store.index.after-flush",
        "store.index.before-change",
        "store.index.after-change",
        "store.sound.before-write",
        "store.sound.after-write",
        "store.scrub.before-write",
        "store.scrub.after-write",
        "acquire.download.before-write",
        "acquire.download.after-write",
        "acquire.download.before-cut",
        "acquire.download.after-cut",
        "acquire.copy.before-write",
        "acquire.copy.after-write",
        "acquire.digest.before-check",
        "acquire.digest.after-check",
        "acquire.unpack.before-entry",
        "acquire.unpack.after-entry",
        "acquire.unpack.before-directories",
        "acquire.unpack.after-directories",
        "seed.stage.before-directory",
        "seed.stage.after-directory",
        "seed.leftovers.before-removal",
        "seed.leftovers.after-removal",
        "seed.build.before-entry",
        "seed.build.after-entry",
        "seed.mark.before-put",
        "seed.mark.after-put",
        "seed.records.before-write",
        "seed.records.after-write",
        "seed.recent.before-append",
        "seed.recent.after-append",
        "seed.recent.after-emptying",
        "seed.create.before-rename",
        "seed.create.after-rename",
        "seed.exchange.before-rename",
        "seed.exchange.after-rename",
        "seed.symlink.before-arranging",
        "seed.symlink.after-arranging",
        "seed.symlink.before-list",
        "seed.symlink.after-list",
        "seed.symlink.after-tree",
        "seed.symlink.before-data",
        "seed.symlink.after-data",
        "seed.symlink.before-name",
        "seed.symlink.after-name",
        "seed.symlink.after-removal",
        "seed.symlink.after-whole",
        "seed.symlink.before-dismantling",
        "seed.symlink.after-dismantling",
        "seed.in-place.before-arranging",
        "seed.in-place.after-arranging",
        "seed.in-place.before-list",
        "seed.in-place.after-list",
        "seed.in-place.before-removal",
        "seed.in-place.after-removal",
        "seed.in-place.before-mark",
        "seed.in-place.after-mark",
        "seed.in-place.before-whole",
        "seed.in-place.after-whole",
        "seed.in-place.before-rename",
        "seed.in-place.after-rename",
        "seed.mend.before-rename",
        "seed.mend.after-rename",
        "seed.rendered.before-write",
        "seed.rendered.after-write",
        "seed.rendered.before-rename",
        "seed.rendered.after-rename",
        "seed.rendered.before-removal",
        "seed.rendered.after-removal",
        "seed.retire.before-rename",
        "seed.retire.after-rename",
        "seed.retired.before-removal",
        "seed.retired.after-removal",
        "seed.fill.before-mark",
        "seed.fill.after-mark",
        "seed.fill.before-move",
        "seed.fill.after-move",
        "seed.hidden.before-directory",
        "seed.hidden.after-directory",
        "seed.hidden.before-removal",
        "seed.hidden.after-removal",
    ];
}
