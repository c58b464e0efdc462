//! A disk with a volatile cache, for tests of what a power loss leaves: a FUSE file system in memory that holds back what
//! was not synced. When the power goes, every operation fails; a seeded choice of what was held back is dropped; then it is
//! mounted anew with the rest.
//!
//! It is mounted as `fuseblk`, by a loop device that nothing is written to: syncfs reaches only such servers. Who makes a
//! mount namespace meanwhile holds a copy of the mount: so the connection is aborted, and each mount has a device of its own.

mod content;
mod model;
mod seen;
mod server;
mod wire;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use fuser::{Config, Session, SessionACL};
use tempfile::TempDir;

pub(crate) use model::{Disk, Loss, Order};
pub(crate) use seen::Seen;

use crate::fixture::system::{command, run_as_root};
use crate::fixture::{PATIENCE, scratch, until};

/// The mounted disk; unmounted when dropped.
pub(crate) struct VolatileDisk {
    // Dropped after the unmounting in `drop`, so that it is empty then.
    dir: TempDir,
    mount: PathBuf,
    /// Where the kernel lists its connections to servers.
    connections: PathBuf,
    device: String,
    disk: Arc<Mutex<Disk>>,
    power: Arc<wire::Power>,
    server: Option<JoinHandle<()>>,
}

impl VolatileDisk {
    /// An empty one.
    pub(crate) fn new(order: Order) -> Self {
        Self::of(Disk::new(order))
    }

    /// An empty one for which names that differ in case or in Unicode's normal form are one. No kernel that runs here has such
    /// a file system of its own.
    pub(crate) fn folding() -> Self {
        Self::of(Disk::folding())
    }

    fn of(disk: Disk) -> Self {
        let dir = scratch();
        let [image, mount, connections] = ["device", "mount", "connections"].map(|name| dir.path().join(name));
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        std::fs::create_dir(&mount).unwrap();
        std::fs::create_dir(&connections).unwrap();
        run_as_root("mount", ["-t", "fusectl", "none", connections.to_str().unwrap()]);
        let (disk, power) = (Arc::new(Mutex::new(disk)), Arc::new(wire::Power::on()));
        let mut this = Self { dir, mount, connections, device: String::new(), disk, power, server: None };
        this.mount();
        this
    }

    fn mount(&mut self) {
        self.power = Arc::new(wire::Power::on());
        let image = self.dir.path().join("device");
        self.device = run_as_root("losetup", ["-f", "--show", image.to_str().unwrap()]).trim().to_owned();
        let kernel = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        // As its standard input, the descriptor is inherited by this child alone.
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,blksize=4096";
        let mut mount = command("mount", ["-i", "-t", "fuseblk", "-o", options, &self.device]);
        let mounted = mount.arg(&self.mount).stdin(Stdio::from(kernel.try_clone().unwrap())).output().unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        let end = wire::between(kernel, self.power.clone(), self.disk.clone());
        let server = server::Server::new(self.disk.clone());
        let session = Session::from_fd(server, end, SessionACL::All, Config::default()).unwrap();
        // How it ends says nothing: the mount has gone.
        self.server = Some(std::thread::spawn(move || drop(session.run())));
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// The power goes before the change after so many.
    pub(crate) fn cut_after(&self, changes: u64) {
        self.power.cut_after(changes);
    }

    /// The power goes now.
    pub(crate) fn cut(&self) {
        self.power.is_cut.store(true, SeqCst);
    }

    /// Whether it has gone.
    pub(crate) fn is_cut(&self) -> bool {
        self.power.is_cut.load(SeqCst)
    }

    /// Changes, and calls of syncfs among them, since it was mounted.
    pub(crate) fn changes(&self) -> (u64, u64) {
        (self.power.changes.load(SeqCst), self.power.syncfs.load(SeqCst))
    }

    /// Drops what chance takes of all that was not synced, and mounts the rest. Nobody may have anything open on it.
    pub(crate) fn lose_power(&mut self, rng: &mut fastrand::Rng) -> Loss {
        self.cut();
        until("nobody to use the disk without power", PATIENCE, || {
            command("umount", [&self.mount]).output().unwrap().status.success().then_some(())
        });
        self.disconnect();
        self.server.take().expect("it was mounted").join().unwrap();
        let loss = server::lock(&self.disk).lose_power(rng);
        self.mount();
        loss
    }

    /// Nothing comes from the kernel any more, whoever still holds a copy of the mount.
    fn disconnect(&self) {
        const LOOP: u32 = 7 << 20;
        let Ok(minor) = self.device.trim_start_matches("/dev/loop").parse::<u32>() else { return };
        // It has gone with the mount where nobody has a copy.
        let _ = std::fs::write(self.connections.join((LOOP | minor).to_string()).join("abort"), "1");
        let _ = command("losetup", ["-d", &self.device]).output();
    }
}

impl Drop for VolatileDisk {
    fn drop(&mut self) {
        // What would still be asked fails at once, so that nobody waits for ever.
        self.cut();
        self.disconnect();
        for mount in [&self.mount, &self.connections] {
            let ended = command("umount", ["-l".as_ref(), mount.as_os_str()]).output();
            if !ended.as_ref().is_ok_and(|output| output.status.success()) {
                eprintln!("{} is still mounted: {ended:?}", mount.display());
            }
        }
    }
}
