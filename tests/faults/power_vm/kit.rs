//! What a virtual machine is made of: qemu and Debian's kernel, unpacked by vm.sh, and what it starts with, all in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::cache::{Taken, after_loss};
use super::machine::Machine;
use crate::fixture::cli::PROGRAM;
use crate::fixture::system::{run, tool};
use crate::fixture::{scratch, sha256};
use crate::power_run::{MANY, VERSIONS, archive};

const SIZE: u64 = 512 << 20;

pub(super) struct Kit {
    dir: TempDir,
    unpacked: PathBuf,
    kernel: PathBuf,
    /// What a tree of each version digests to.
    pub(super) trees: BTreeMap<String, String>,
}

/// A virtual disk with a file system.
pub(super) struct Disk {
    initrd: PathBuf,
    image: PathBuf,
}

impl Kit {
    pub(super) fn new() -> Self {
        let dir = scratch();
        let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
        run("bash", [source("vm.sh").as_os_str(), unpacked.as_os_str()]);
        let boot = fs::read_dir(unpacked.join("boot")).unwrap().map(|entry| entry.unwrap().path());
        let kernel = boot.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("vmlinuz"));
        let mut kit = Self { kernel: kernel.expect("a kernel"), dir, unpacked, trees: BTreeMap::new() };
        kit.lay_out();
        kit
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn lay_out(&mut self) {
        let root = self.root();
        for dir in ["bin", "proc", "sys", "dev", "run", "disk", "tmp", "modules", "config", "origin", "etc"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy(tool("busybox"), root.join("bin/busybox")).unwrap();
        run("busybox", ["--list"]).lines().filter(|applet| *applet != "busybox").for_each(|applet| {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        });
        for program in [PathBuf::from(PROGRAM), tool("dmsetup"), tool("curl")] {
            self.lay_out_program(&program);
        }
        fs::copy(source("vm_init.sh"), root.join("init")).unwrap();
        run("chmod", ["755", root.join("init").to_str().unwrap()]);
        self.lay_out_modules();
        self.lay_out_origin();
    }

    fn lay_out_program(&self, program: &Path) {
        fs::copy(program, self.root().join("bin").join(program.file_name().unwrap())).unwrap();
        for library in run("ldd", [program]).split_whitespace().filter(|word| word.starts_with('/')) {
            let place = self.root().join(library.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(library, place).unwrap();
        }
    }

    fn lay_out_modules(&self) {
        let modules = fs::read_dir(self.unpacked.join("lib/modules")).unwrap().next().unwrap().unwrap();
        let wanted = ["virtio_pci", "virtio_blk", "dm_mod", "dm_flakey", "crc32c_generic", "ext4", "xfs"];
        let mut order = Vec::new();
        for module in wanted {
            let base = self.unpacked.to_str().unwrap();
            let version = modules.file_name().into_string().unwrap();
            let listed = run("modprobe", ["-d", base, "-S", &version, "--ignore-install", "--show-depends", module]);
            for path in listed.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let path = Path::new(path.trim());
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if !order.contains(&name) {
                    fs::copy(path, self.root().join("modules").join(&name)).unwrap();
                    order.push(name);
                }
            }
        }
        fs::write(self.root().join("modules/order"), order.join("\n")).unwrap();
    }

    fn lay_out_origin(&mut self) {
        let (root, tree) = (self.root(), self.dir.path().join("tree"));
        fs::write(root.join("versions"), VERSIONS.to_string()).unwrap();
        let script = fs::read_to_string(root.join("init")).unwrap();
        let digest = &script[script.find("digest() {").unwrap()..script.find("serve() {").unwrap()];
        for n in 0..VERSIONS {
            // Small ones and large ones in turn.
            let archive = if n % 2 == 0 { archive("small", n, 6) } else { archive("large", n, MANY) };
            let version = format!("v{}", n + 1);
            let served = root.join("origin").join(&version);
            fs::create_dir_all(&served).unwrap();
            fs::write(served.join("app.tgz"), &archive).unwrap();
            fs::write(served.join("SHA256SUMS"), format!("{}  app.tgz\n", sha256(&archive))).unwrap();
            let into = tree.join(&version);
            fs::create_dir_all(&into).unwrap();
            let tgz = served.join("app.tgz");
            run("tar", ["-C", into.to_str().unwrap(), "--strip-components=1", "-xpzf", tgz.to_str().unwrap()]);
            let digest = run("bash", ["-c", &format!("export LC_ALL=C\n{digest}\ndigest '{}'", into.display())]);
            self.trees.insert(version, digest.trim().to_owned());
        }
        let document = "apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {name: app}
spec:
  source:
    http:
      latest: {url: 'http://127.0.0.1:8000/latest', pattern: '/(?<version>[^/]+)$'}
      checksums: {url: 'http://127.0.0.1:8000/{version}/SHA256SUMS'}
      url: 'http://127.0.0.1:8000/{version}/app.tgz'
  unpack: {stripComponents: 1}
  retain: {versions: 10}
";
        fs::write(root.join("config/app.yaml"), document).unwrap();
    }

    /// A new disk, and the memory that a machine starts with that mounts it.
    pub(super) fn disk(&self, fs: &str) -> Disk {
        let image = self.dir.path().join(fs);
        let file = File::create(&image).unwrap();
        file.set_len(SIZE).unwrap();
        let force = if fs == "ext4" { "-F" } else { "-f" };
        run(&format!("mkfs.{fs}"), ["-q", force, image.to_str().unwrap()]);
        fs::write(self.root().join("fs"), fs).unwrap();
        let initrd = self.dir.path().join(format!("initrd.{fs}"));
        let pack =
            format!("cd '{}' && find . | busybox cpio -o -H newc >'{}'", self.root().display(), initrd.display());
        run("bash", ["-c", &pack]);
        Disk { initrd, image }
    }

    /// What writes and flushes of a machine are put on record in, and what it writes to meanwhile.
    fn record(&self) -> [PathBuf; 2] {
        ["record", "written"].map(|name| self.dir.path().join(name))
    }

    /// Starts a machine. Where its disk has a cache, nothing is written to the disk until [`Kit::lose_cache`].
    pub(super) fn boot(&self, disk: &Disk, with_cache: bool) -> Machine {
        let base = &self.unpacked;
        let libraries =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|lib| base.join(lib).display().to_string());
        let mut qemu = Command::new(base.join("usr/bin/qemu-system-x86_64"));
        for place in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(base.join(place));
        }
        // Where the host is slow the kernel takes its timer for broken, if it tries.
        qemu.args(["-machine", "pc,graphics=off", "-accel", "tcg", "-cpu", "max", "-m", "768", "-vga", "none"])
            .args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-serial"])
            .arg(format!("file:{}", self.console().display()))
            .args(["-serial", "stdio", "-append"])
            .arg(format!(
                "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init{}",
                if with_cache { " cached" } else { "" }
            ))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&disk.initrd)
            .args(["-device", "virtio-blk-pci,drive=disk,discard=off,write-zeroes=off", "-blockdev"])
            .env("LD_LIBRARY_PATH", libraries.join(":"));
        // The host goes on: it need not sync what the machine flushes.
        let file = |node: &str, path: &Path| {
            format!("driver=file,cache.no-flush=on,node-name={node},filename={}", path.display())
        };
        if with_cache {
            let [record, written] = self.record();
            File::create(&record).unwrap();
            run("cp", [Path::new("--sparse=always"), &disk.image, &written]);
            qemu.arg(file("written", &written)).arg("-blockdev").arg(file("record", &record));
            qemu.args(["-blockdev", "driver=blklogwrites,node-name=disk,file=written,log=record"]);
        } else {
            qemu.arg(file("disk", &disk.image));
        }
        Machine::start(qemu)
    }

    /// Has the disk hold what was flushed, and of the rest what chance has it.
    pub(super) fn lose_cache(&self, disk: &Disk, keep: impl FnMut() -> bool) -> Taken {
        let [record, _] = self.record();
        let image = File::options().write(true).open(&disk.image).unwrap();
        after_loss(&File::open(record).unwrap(), &image, keep).unwrap()
    }

    /// What firmware and kernel say.
    pub(super) fn console(&self) -> PathBuf {
        self.dir.path().join("console")
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(name)
}
