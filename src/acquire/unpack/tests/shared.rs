//! Files that a version on the node has: linked while the archive is unpacked, never written.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::builder::Tar;
use super::*;
use crate::intent::{ArtifactName, Digest};
use crate::store::{NewVersion, ResolvedFrom, Staging, Store, Version};

struct House {
    store: Store,
    dir: tempfile::TempDir,
}

impl House {
    /// With a version `1` of this archive.
    fn with(archive: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let house = Self { store: Store::open(&dir.path().join("store")).unwrap(), dir };
        let (staging, unpacked) = house.unpack(archive);
        house.publish("1", &staging, unpacked.unwrap());
        house
    }

    fn artifact() -> ArtifactName {
        "os".parse().unwrap()
    }

    /// Into staging; nothing is published yet.
    fn unpack(&self, archive: &[u8]) -> (Staging, Result<Unpacked, UnpackError>) {
        let staging = self.store.staging(&Self::artifact()).unwrap();
        let staging = staging.with_donors(self.store.donors(&Self::artifact(), None));
        let tree = staging.fresh_tree().unwrap();
        let (recipe, progress) = (Unpack::default(), Progress::default());
        let unpacked = unpack(archive, &recipe, "single.bin", &tree, staging.donors(), &progress, &false.into());
        (staging, unpacked)
    }

    fn publish(&self, version: &str, staging: &Staging, unpacked: Unpacked) {
        let new = NewVersion {
            artifact: Self::artifact(),
            version: version.parse().unwrap(),
            source_url: "file:///x".into(),
            digest: Digest::sha256(version.as_bytes()),
            size: 1,
            verified_by: vec![],
            resolved_from: ResolvedFrom::default(),
            recipe: Digest::sha256(b"recipe"),
            keep_archive: false,
            entries: unpacked.entries,
        };
        self.store.publish(staging, new, jiff::Timestamp::now()).unwrap();
    }

    fn staged(&self, path: &str) -> std::fs::Metadata {
        std::fs::metadata(self.dir.path().join("store/staging/os/version/tree").join(path)).unwrap()
    }

    fn path(&self, version: &str, path: &str) -> PathBuf {
        self.dir.path().join("store/versions/os").join(version).join("tree").join(path)
    }

    fn published(&self, version: &str, path: &str) -> std::fs::Metadata {
        std::fs::metadata(self.path(version, path)).unwrap()
    }

    fn open(&self, version: &str) -> Version {
        self.store.open_version(&Self::artifact(), &version.parse().unwrap()).unwrap()
    }

    /// Whether a file need not be read before it is seeded.
    fn knows(&self, version: &str, path: &str) -> bool {
        let opened = self.open(version);
        let manifest = self.store.manifest(&opened).unwrap();
        let entry = manifest.entries.iter().find(|entry| entry.path.as_bytes() == path.as_bytes()).unwrap();
        opened.knows(&opened.tree().stat(&entry.path).unwrap().unwrap(), &entry.sha256.unwrap())
    }

    #[track_caller]
    fn assert_sound(&self, version: &str) {
        assert_eq!(self.store.verify(&self.open(version), |_| {}).unwrap().damage, []);
    }

    /// As root does who does not want to be seen.
    fn change(&self, version: &str, path: &str, content: &str) {
        let path = self.path(version, path);
        let before = std::fs::metadata(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&path, content).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.set_permissions(before.permissions()).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }
}

/// What was published cannot be written, so a plain removal fails for any user but root.
impl Drop for House {
    fn drop(&mut self) {
        Dir::open(self.dir.path()).unwrap().clear().unwrap();
    }
}

fn large() -> Vec<u8> {
    (0..3u32 << 18).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn first() -> Tar {
    Tar::default()
        .dir("d/")
        .file("d/same", b"same")
        .file("d/moved", b"moved")
        .file("d/changed", b"old")
        .file("large", &large())
}

#[test]
fn what_a_version_has_is_its_file_before_anything_is_published() {
    let house = House::with(&first().end());
    let second = Tar::default().dir("d/").dir("e/").file("d/same", b"same").hard_link("d/too", "d/same");
    let second = second.file("e/elsewhere", b"moved").file("d/changed", b"new").file("large", &large()).end();
    let (staging, unpacked) = house.unpack(&second);
    let unpacked = unpacked.unwrap();
    for (staged, donor) in [("d/same", "d/same"), ("d/too", "d/same"), ("e/elsewhere", "d/moved")] {
        assert_eq!(house.staged(staged).ino(), house.published("1", donor).ino(), "{staged}");
    }
    assert_ne!(house.staged("large").ino(), house.published("1", "large").ino(), "streamed, and shared when published");
    let plain = Sandbox::new().unpack(&second[..], &Unpack::default()).unwrap();
    assert_eq!(unpacked.entries, plain.entries);
    house.publish("2", &staging, unpacked);
    assert_eq!(house.published("2", "large").ino(), house.published("1", "large").ino());
    for (version, path) in [("1", "d/same"), ("1", "d/moved"), ("1", "large"), ("2", "d/changed"), ("2", "e/elsewhere")]
    {
        assert!(house.knows(version, path), "{version} {path}");
    }
    for version in ["1", "2"] {
        house.assert_sound(version);
    }
}

#[test]
fn a_file_changed_in_the_store_is_written_anew() {
    let house = House::with(&first().end());
    house.change("1", "d/same", "evil");
    let (staging, unpacked) = house.unpack(&first().end());
    assert_ne!(house.staged("d/same").ino(), house.published("1", "d/same").ino());
    house.publish("2", &staging, unpacked.unwrap());
    assert_eq!(read(&house.path("2", "d/same")), b"same");
    house.assert_sound("2");
    assert_eq!(std::fs::read_dir(house.path("2", "d")).unwrap().count(), 3, "nothing is left beside");
    let told = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(house.store.damage_reports());
    assert!(told[0].what.contains("d/same"), "{}", told[0].what);
}

#[test]
fn a_file_in_an_unknown_state_is_compared_with_what_was_unpacked() {
    let house = House::with(&first().end());
    // Another change time, the same bytes.
    house.change("1", "d/same", "same");
    assert!(!house.knows("1", "d/same"));
    let (_staging, unpacked) = house.unpack(&first().end());
    unpacked.unwrap();
    assert_eq!(house.staged("d/same").ino(), house.published("1", "d/same").ino());
    assert!(house.knows("1", "d/same"), "it was read just now");
}

#[test]
fn a_tree_that_is_thrown_away_leaves_the_files_known() {
    let house = House::with(&first().end());
    let mut broken = first().end();
    broken.truncate(broken.len() - 1024);
    let (staging, unpacked) = house.unpack(&broken);
    unpacked.unwrap_err();
    assert_eq!(house.published("1", "d/same").nlink(), 2);
    staging.discard_tree().unwrap();
    assert!(!house.dir.path().join("store/staging/os/version").exists());
    for path in ["d/same", "d/moved", "d/changed"] {
        assert_eq!(house.published("1", path).nlink(), 1, "{path}");
        assert!(house.knows("1", path), "{path}");
    }
    house.assert_sound("1");
}

#[test]
fn other_metadata_means_another_inode() {
    let house = House::with(&first().end());
    let other = Tar::default().dir("d/").entry(b'0', b"d/same", b"same", |header| header.set_mode(0o755));
    let other = other.entry(b'0', b"d/moved", b"moved", |header| header.set_mtime(1));
    let (staging, unpacked) = house.unpack(&other.end());
    house.publish("2", &staging, unpacked.unwrap());
    for path in ["d/same", "d/moved"] {
        assert_ne!(house.published("2", path).ino(), house.published("1", path).ino(), "{path}");
    }
    assert_eq!(house.published("2", "d/same").mode() & 0o7777, 0o555);
    house.assert_sound("2");
}

#[test]
fn a_donor_that_is_removed_meanwhile_is_done_without() {
    let house = House::with(&first().end());
    let staging = house.store.staging(&House::artifact()).unwrap();
    let staging = staging.with_donors(house.store.donors(&House::artifact(), None));
    house.store.remove_version(&House::artifact(), &"1".parse().unwrap(), || true).unwrap();
    assert!(!house.path("1", "d").exists(), "donors hold up no removal");
    let tree = staging.fresh_tree().unwrap();
    let archive = first().end();
    let (recipe, progress) = (Unpack::default(), Progress::default());
    let unpacked = unpack(&archive[..], &recipe, "x", &tree, staging.donors(), &progress, &false.into());
    house.publish("2", &staging, unpacked.unwrap());
    house.assert_sound("2");
}

/// Beyond what ext4 and XFS have, on either side of it.
#[test]
fn times_that_the_disk_cannot_hold_are_those_that_it_has() {
    let times = [("mtime", "99999999999.5"), ("mtime", "-99999999999")];
    let archive = |more: &str| {
        let mut tar = Tar::default();
        for (at, time) in times.into_iter().enumerate() {
            let name = |what: &str| format!("d{at}/{what}");
            tar = tar.pax(&[time]).dir(&format!("d{at}/")).pax(&[time]).file(&name("file"), b"small");
            tar = tar.pax(&[time]).file(&name("empty"), b"").pax(&[time]).symlink(&name("symlink"), "file");
            tar = tar.hard_link(&name("link"), &name("file"));
        }
        tar.file("more", more.as_bytes()).end()
    };
    let house = House::with(&archive("first"));
    house.assert_sound("1");
    let (staging, unpacked) = house.unpack(&archive("second"));
    let unpacked = unpacked.unwrap();
    let tree = house.dir.path().join("store/staging/os/version/tree");
    for entry in &unpacked.entries {
        let found = std::fs::symlink_metadata(tree.join(entry.path.as_path())).unwrap();
        assert_eq!(entry.mtime_parts(), (found.mtime(), u32::try_from(found.mtime_nsec()).unwrap()), "{}", entry.path);
    }
    house.publish("2", &staging, unpacked);
    house.assert_sound("2");
}
