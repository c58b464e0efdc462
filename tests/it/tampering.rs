//! Stored files changed through a hard-linked seed: the next who is given them gets the right bytes. The campaign's part
//! `tamper` does it many times.

use crate::fixture::tampering::{NEXT, Vault, WAYS};

#[test]
fn every_way_is_found_before_the_next_who_asks() {
    let mut vault = Vault::new();
    let mut random = fastrand::Rng::with_seed(1);
    for (round, way) in WAYS.into_iter().cycle().take(2 * WAYS.len()).enumerate() {
        assert_eq!(vault.run(way, NEXT[round % NEXT.len()], &mut random), None);
    }
}
