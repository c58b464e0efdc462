//! Power losses of a whole machine: Debian's kernel with ext4 and XFS on a virtual disk, its power taken by SIGKILL to qemu.
//! What the kernel had not given to the disk is gone, and its journal is replayed by the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::cli::PROGRAM;
use crate::fixture::system::{command, run, tool};
use crate::fixture::{scratch, sha256};
use crate::power_run::{MANY, VERSIONS, archive};
use crate::report::{Asked, Part, Row};

const RUNS: u64 = 20;
/// A machine without hardware's help, beside others, is slow.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long it works at most before its power goes.
const WORK: u64 = 12_000;

pub(crate) const PART: Part = Part {
    name: "power-vm",
    about: "power losses of a virtual machine with ext4 and XFS (qemu and Debian's kernel are fetched)",
    run: all,
};

/// What the machine is made of.
struct Kit {
    dir: TempDir,
    unpacked: PathBuf,
    kernel: PathBuf,
    /// What a tree of each version digests to.
    trees: BTreeMap<String, String>,
}

/// What was acknowledged by a machine, over all its losses.
#[derive(Default)]
struct Acknowledged {
    versions: BTreeSet<String>,
    /// More than one while a change is not acknowledged.
    pins: BTreeSet<Option<String>>,
}

fn all(asked: Asked) -> Vec<Row> {
    let runs = asked.runs.unwrap_or(RUNS);
    let kit = Kit::new();
    let mut wrong = Vec::new();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut acknowledged = 0;
    for fs in ["ext4", "xfs"] {
        let (disk, initrd) = (kit.disk(fs), kit.initrd(fs));
        let mut known = Acknowledged { pins: BTreeSet::from([None]), ..Acknowledged::default() };
        // One more start looks at what the last loss left.
        for run in 0..=runs.div_ceil(2) {
            let work = (run < runs.div_ceil(2)).then(|| Duration::from_millis(rng.u64(0..WORK)));
            let lines = kit.boot(&disk, &initrd, work);
            wrong.extend(kit.judge(&lines, &mut known).into_iter().map(|line| format!("{fs}, loss {run}: {line}")));
        }
        acknowledged += known.versions.len();
    }
    wrong.iter().for_each(|line| eprintln!("{line}"));
    eprintln!("{acknowledged} versions were acknowledged");
    vec![Row {
        fault: format!("power loss of a machine with ext4 and XFS, {runs} runs"),
        figure: format!("{} lost or partial", wrong.len()),
        reach: "0",
        reached: wrong.is_empty() && acknowledged > 0,
    }]
}

impl Kit {
    fn new() -> Self {
        let dir = scratch();
        let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
        run(
            "bash",
            [Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/vm.sh").as_os_str(), unpacked.as_os_str()],
        );
        let boot = fs::read_dir(unpacked.join("boot")).unwrap().map(|entry| entry.unwrap().path());
        let kernel = boot.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("vmlinuz"));
        let mut kit = Self { kernel: kernel.expect("a kernel"), dir, unpacked, trees: BTreeMap::new() };
        kit.lay_out();
        kit
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// What the machine starts with, all in memory: programs, modules, origin.
    fn lay_out(&mut self) {
        let root = self.root();
        for dir in
            ["bin", "lib", "lib64", "proc", "sys", "dev", "run", "disk", "tmp", "modules", "config", "origin", "etc"]
        {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy(tool("busybox"), root.join("bin/busybox")).unwrap();
        run("busybox", ["--list"]).lines().filter(|applet| *applet != "busybox").for_each(|applet| {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        });
        fs::copy(PROGRAM, root.join("bin/seedcache")).unwrap();
        for word in run("ldd", [PROGRAM]).split_whitespace().filter(|word| word.starts_with('/')) {
            let place = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(word, place).unwrap();
        }
        let init = root.join("init");
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/vm_init.sh"), &init).unwrap();
        run("chmod", ["755", init.to_str().unwrap()]);
        self.lay_out_modules();
        self.lay_out_origin();
    }

    fn lay_out_modules(&self) {
        let modules = fs::read_dir(self.unpacked.join("lib/modules")).unwrap().next().unwrap().unwrap();
        let wanted = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "xfs"];
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

    fn disk(&self, fs: &str) -> PathBuf {
        let disk = self.dir.path().join(fs);
        File::create(&disk).unwrap().set_len(512 << 20).unwrap();
        let force = if fs == "ext4" { "-F" } else { "-f" };
        run(&format!("mkfs.{fs}"), ["-q", force, disk.to_str().unwrap()]);
        disk
    }

    fn initrd(&self, fs: &str) -> PathBuf {
        fs::write(self.root().join("fs"), fs).unwrap();
        let initrd = self.dir.path().join(format!("initrd.{fs}"));
        let pack =
            format!("cd '{}' && find . | busybox cpio -o -H newc >'{}'", self.root().display(), initrd.display());
        run("bash", ["-c", &pack]);
        initrd
    }

    /// Starts the machine, and takes its power so long after it has said what it found; without a time then and there.
    fn boot(&self, disk: &Path, initrd: &Path, work: Option<Duration>) -> Vec<String> {
        let base = &self.unpacked;
        let libraries =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|lib| base.join(lib).display().to_string());
        let mut qemu = Command::new(base.join("usr/bin/qemu-system-x86_64"));
        for place in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(base.join(place));
        }
        qemu.args(["-machine", "pc,graphics=off", "-accel", "kvm", "-accel", "tcg", "-cpu", "max", "-m", "768", "-vga", "none"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init", "-drive"])
            .arg(format!("file={},format=raw,if=virtio,cache=writeback", disk.display()))
            .env("LD_LIBRARY_PATH", libraries.join(":"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut machine = Machine::start(qemu);
        machine.read_until("checked", Instant::now() + PATIENCE);
        if let Some(work) = work {
            machine.read_until("nothing that is ever said", Instant::now() + work);
        }
        std::mem::take(&mut machine.lines)
    }

    /// What of what the machine said cannot be.
    fn judge(&self, lines: &[String], known: &mut Acknowledged) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut on_disk = BTreeSet::new();
        let demanded = known.versions.clone();
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "disk" => {
                    let (version, digest) = rest.split_once(' ').unwrap();
                    on_disk.insert(version.to_owned());
                    if demanded.contains(version) && self.trees[version] != digest {
                        wrong.push(format!("{version} is not whole on the disk"));
                    }
                }
                "current" if !self.trees.values().any(|digest| digest == rest) => {
                    wrong.push("what current/ leads to is not whole".to_owned());
                }
                "state" => wrong.extend(self.judge_state(rest, known)),
                "seeded" => {
                    let (said, digest) = rest.rsplit_once(" -- ").unwrap();
                    let version = serde_json::from_str::<Value>(said)
                        .ok()
                        .and_then(|said| said["version"].as_str().map(str::to_owned));
                    if version.as_ref().and_then(|version| self.trees.get(version)).map(String::as_str) != Some(digest)
                    {
                        wrong.push(format!("a target is not {version:?} after its seed"));
                    }
                }
                "failed" => wrong.push(rest.to_owned()),
                "checked" => wrong.extend(demanded.difference(&on_disk).map(|version| format!("{version} is lost"))),
                "version" => drop(known.versions.insert(rest.to_owned())),
                "unpinning" => drop(known.pins.insert(None)),
                "unpinned" => known.pins = BTreeSet::from([None]),
                "pinning" => drop(known.pins.insert(Some(rest.to_owned()))),
                "pinned" => known.pins = BTreeSet::from([Some(rest.to_owned())]),
                _ => {}
            }
        }
        if !lines.iter().any(|line| line == "checked") {
            wrong.push(format!("it did not come up: {lines:?}"));
        }
        wrong
    }

    fn judge_state(&self, json: &str, known: &Acknowledged) -> Vec<String> {
        let Ok(state) = serde_json::from_str::<Value>(json) else { return vec![format!("no state: {json}")] };
        let state = if state.is_array() { state[0].clone() } else { state };
        let mut wrong = Vec::new();
        let pin = state["pin"].as_str().map(str::to_owned);
        if !known.pins.contains(&pin) {
            wrong.push(format!("the pin is {pin:?}, acknowledged was one of {:?}", known.pins));
        }
        let rows = state["versions"].as_array().into_iter().flatten();
        let listed: BTreeSet<String> = rows.filter_map(|row| row["version"].as_str().map(str::to_owned)).collect();
        wrong.extend(known.versions.difference(&listed).map(|version| format!("{version} is not listed")));
        wrong
    }
}

/// A running machine; its power is taken when it is dropped.
struct Machine {
    child: Child,
    said: Receiver<String>,
    lines: Vec<String>,
}

impl Machine {
    fn start(mut qemu: Command) -> Self {
        let mut child = qemu.spawn().unwrap();
        let (send, said) = channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while out.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                // Half a line is none: the power went meanwhile.
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if line.last() == Some(&b'\n') && send.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { child, said, lines: Vec::new() }
    }

    /// Takes down what the machine tells the host, up to a word, its end, or a time.
    fn read_until(&mut self, word: &str, deadline: Instant) {
        while let Ok(line) = self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let Some(told) = line.strip_prefix("HOST ") else { continue };
            self.lines.push(told.to_owned());
            if told == word {
                return;
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
