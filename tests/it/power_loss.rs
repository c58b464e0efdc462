//! A few power losses on a disk with a volatile cache; `tests/campaign power` has hundreds.

use crate::power_run::{Outcome, Shelf, power_loss};

#[test]
fn power_losses_take_nothing_that_was_acknowledged() {
    let shelf = Shelf::new();
    let mut changes = 0;
    for seed in 1..=10 {
        eprintln!("seed {seed}");
        let Outcome { lost, partial, losses, .. } = power_loss(&shelf, seed);
        assert!(lost.is_empty() && partial.is_empty(), "seed {seed}: lost {lost:?}, partial {partial:?}");
        changes += losses.iter().map(|loss| loss.lost).sum::<usize>();
    }
    assert!(changes > 0, "no loss took anything: nothing was tried");
}
