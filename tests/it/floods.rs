//! Who sends what is no HTTP, or very much, or nothing: others are answered, and everything is let go. The campaign's part
//! `flood` does it with 20,000 connections.

use std::time::Duration;

use crate::fixture::flood::{Flood, Hog};

#[test]
fn what_is_no_http_harms_nobody() {
    let flood = Flood::new();
    assert_eq!(flood.malformed(), Vec::<String>::new());
    flood.pipelined(2000);
    flood.is_at_rest();
    assert!(flood.peak_rss_kib() < 256 << 10, "{} KiB", flood.peak_rss_kib());
}

#[test]
fn a_crowd_that_says_little_holds_up_nobody() {
    let flood = Flood::new();
    let crowd = flood.crowd(2000, 1000, Duration::from_secs(1));
    assert!(crowd.connections == 3000 && crowd.answers > 1, "{crowd:?}");
    flood.is_at_rest();
    assert!(flood.peak_rss_kib() < 256 << 10, "{} KiB", flood.peak_rss_kib());
}

#[test]
fn who_has_much_held_for_no_good_holds_up_nobody() {
    for hog in Hog::ALL {
        let flood = Flood::in_memory();
        let crowd = flood.hogs(hog, 1500, Duration::from_secs(2));
        assert!(crowd.connections == 1500 && crowd.answers > 1, "{hog:?}: {crowd:?}");
        flood.is_at_rest();
        assert!(flood.peak_rss_kib() < 192 << 10, "{hog:?}: {} KiB", flood.peak_rss_kib());
    }
}
