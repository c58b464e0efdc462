//! What this process may do with files once they belong to others.

use std::path::Path;
use std::sync::OnceLock;

use rustix::thread::{CapabilitySet, capabilities};

use super::read_limited;

/// Whether this process may give files to any owner, and then go on setting their modes and times. Root in a container
/// often may not: its capabilities are dropped, or it is root of a user namespace that knows few users.
pub fn may_give_away() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let needed = CapabilitySet::CHOWN | CapabilitySet::FOWNER;
        let held = capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
        rustix::process::geteuid().is_root() && held && ["uid_map", "gid_map"].iter().all(|map| knows_all(map))
    })
}

/// Whether the user namespace knows every user, or every group.
fn knows_all(map: &str) -> bool {
    // Without /proc there is no telling, and most processes are in the first namespace.
    let Ok(text) = read_limited(&Path::new("/proc/self").join(map), 64 << 10) else { return true };
    maps_all(&String::from_utf8_lossy(&text))
}

fn maps_all(map: &str) -> bool {
    let mut ranges = map.lines().map(|line| line.split_ascii_whitespace());
    ranges.any(|mut range| (range.next(), range.nth(1)) == (Some("0"), Some("4294967295")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_namespace_knows_everybody_and_others_some() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0     100000      65536\n"));
        assert!(!maps_all("         0       1000          1\n         1     100000      65536\n"));
        assert!(!maps_all(""));
    }
}
