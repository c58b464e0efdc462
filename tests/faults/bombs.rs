//! Archives that are small and become large, two at a time: what the daemon takes of memory for them, and how far beyond a
//! limit it goes on the disk before it stops.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::fixture::BIG_PATIENCE;
use crate::fixture::node::Node;
use crate::fixture::origin::Origin;
use crate::hostile::bombs::{Bomb, bombs, entries, windows};
use crate::report::{Asked, Part, Row};

pub(crate) const PART: Part =
    Part { name: "bombs", about: "archives that become large: memory, and overshoot of limits", run };

/// As the DaemonSet has it.
const TUNABLES: &str = "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";
/// Bytes of one buffer of the unpacker.
const BUFFER: u64 = 256 * 1024;
const MIB: u64 = 1 << 20;

fn run(asked: Asked) -> Vec<Row> {
    let bombs = bombs();
    let (mut rss, mut overshoot) = (0, 0);
    for _ in 0..asked.runs.unwrap_or(1) {
        let (most, over) = drop_all(&bombs);
        (rss, overshoot) = (rss.max(most), overshoot.max(over));
    }
    // What is sound but for its end, and asks for as much memory as any archive gets.
    let [windows, entries] = [windows(), entries()].map(|bombs| drop_all(&bombs).0.div_ceil(MIB));
    vec![
        Row {
            fault: format!("bombs, {} kinds, two at a time", bombs.len()),
            figure: format!("peak RSS {} MiB; overshoot {overshoot} bytes", rss.div_ceil(MIB)),
            reach: "128 MiB or less; one buffer (262,144 bytes) or less",
            reached: rss <= 128 * MIB && overshoot <= BUFFER,
        },
        Row {
            fault:
                "archives that ask for all that the limits allow, two at a time: the largest windows; a million entries"
                    .into(),
            figure: format!("peak RSS {windows} MiB; {entries} MiB"),
            reach: "not 128 MiB: within the DaemonSet's 512 MiB",
            reached: windows.max(entries) <= 512,
        },
    ]
}

/// The daemon's peak in memory, and the most bytes that were seen beyond what a limit allows.
fn drop_all(bombs: &[Bomb]) -> (u64, u64) {
    let origin = Origin::start();
    let mut documents = String::new();
    for (at, bomb) in bombs.iter().enumerate() {
        origin.serve(&format!("/{at}"), &bomb.archive[..]);
        let url = origin.url(&format!("/{at}"));
        documents += &format!(
            "---\napiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: bomb-{at}}}\n\
             spec: {{version: v1, source: {{http: {{url: '{url}'}}}}, unpack: {{limits: {{{}}}}}}}\n",
            bomb.limits
        );
    }
    let node = Node::builder().env("GLIBC_TUNABLES", TUNABLES).start();
    let looks: Vec<Look> =
        (0..bombs.len()).map(|at| Look::at(&node.store().join(format!("staging/bomb-{at}/version")))).collect();
    node.write_config("bombs.yaml", &documents);
    let mut overshoot = 0;
    for (at, (bomb, look)) in bombs.iter().zip(&looks).enumerate() {
        let state = crate::fixture::until(bomb.name, BIG_PATIENCE, || {
            let response = node.get(&format!("/v1/artifacts/bomb-{at}"));
            let state = (response.status == 200).then(|| response.json())?;
            (state["state"] == "Ready" || !state["lastError"].is_null()).then_some(state)
        });
        let error = state["lastError"].as_str().unwrap_or_default();
        assert!(error.contains(bomb.says) && error.contains(bomb.entry), "{}: {state}", bomb.name);
        let most = look.most.load(Ordering::Relaxed);
        overshoot = overshoot.max(most.saturating_sub(bomb.allowed));
        eprintln!("{}: {} bytes of archive, {most} bytes seen on the disk: {error}", bomb.name, bomb.archive.len());
    }
    (node.peak_rss_kib() * 1024, overshoot)
}

/// Looks at a tree in the making, again and again.
struct Look {
    over: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
}

impl Look {
    fn at(version: &Path) -> Self {
        let look = Self { over: Arc::default(), most: Arc::default() };
        let (over, most, version) = (look.over.clone(), look.most.clone(), version.to_owned());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(bytes_below(&version), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        look
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Bytes of all files, as they show them; what vanishes meanwhile counts for nothing.
fn bytes_below(root: &Path) -> u64 {
    let (mut bytes, mut open) = (0, vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_file() {
            bytes += meta.len();
        } else if meta.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            open.extend(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())));
        }
    }
    bytes
}
