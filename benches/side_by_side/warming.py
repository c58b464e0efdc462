"""Cold warm-ups: an archive at an origin becomes a verified tree on the disk."""

import shutil
import subprocess
from statistics import median

from .data import STAMP
from .measure import Failed, Side, run, shell, turns, until
from .report import BEST, Line, row
from .servers import Node
from .trees import Same

OURS = "seedcache, verified, durable"
WGET = "wget && sha256sum -c && tar xzf"
CURL = "curl | tee >(sha256sum) | tar xz"
ARIA2 = "aria2c --checksum, pigz -d | tar x"
IGZIP = "curl | igzip -d | tar x, unverified"
ARIA2_4 = "aria2c -x4 --checksum, pigz -d | tar x"
SYNCED = ", sync -f"
# Without it GNU tar leaves wrong times on directories that an archive comes back to, as the Linux tree's does.
RIGHT_TIMES = {"TAR_OPTIONS": "--delay-directory-restore"}
CHECKED = '[ "$(cut -c1-64 got)" = "$SHA" ]'
SCRIPTS = {
    WGET: 'wget -q "$URL" "$SUMS" && sha256sum -c --quiet sha256sums.txt && tar xzf "$FILE" -C tree',
    # A pipe with a name, so that the digest is waited for and looked at.
    CURL: f'mkfifo pipe; sha256sum <pipe >got & curl -fsS "$URL" | tee pipe | tar xz -C tree; wait $!; {CHECKED}',
    ARIA2: 'aria2c -q --file-allocation=falloc --checksum=sha-256="$SHA" "$URL" && pigz -dc "$FILE" | tar x -C tree',
    IGZIP: 'curl -fsS "$URL" | igzip -dc | tar x -C tree',
    ARIA2_4: 'aria2c -q -x4 -s4 -k1M --file-allocation=falloc --checksum=sha-256="$SHA" "$URL" && '
             'pigz -dc "$FILE" | tar x -C tree',
}


def told_to_warm(bench, archive, documents):
    """Has a running daemon with an empty store warm `archive`: the clock starts when the origin has just begun to name a
    version and the daemon is told to ask, and stops when it says that the version is current and durable."""
    node = Node(bench.seedcache, bench.fresh("node"), documents)
    try:
        until("the daemon to find no version", lambda: node.state(archive.name)["state"] == "Failed")
        bench.settle(archive.path)
        archive.latest().write_text(f"{STAMP}\n")
        took = run([node.seedcache, "refresh", archive.name, "--wait", "30m"], env=node.env, server=node)
        if node.state(archive.name)["current"] != STAMP:
            raise Failed(f"{archive.name}: not current after it was warmed")
        return node, took
    except BaseException:
        node.stop()
        raise
    finally:
        archive.latest().unlink(missing_ok=True)


def warm(bench, job, title, archive, base, peers, reach, more="", durable=False):
    """A table of warm-ups. Each peer's runs go on with `sync -f`, and stand there with and without it."""
    same, document = Same(), archive.document(base, more)
    sides, at = [], bench.work / "peer"

    def ours(round):
        node, took = told_to_warm(bench, archive, {archive.name: document})
        try:
            if round == 0:
                same.check("seedcache", node.tree(archive.name))
        finally:
            node.stop()
        return took

    def peer(name):
        def go(_):
            shutil.rmtree(at, ignore_errors=True)
            (at / "tree").mkdir(parents=True)
            bench.settle(archive.path)
            took = shell(SCRIPTS[name], at, {**archive.at(base), **RIGHT_TIMES})
            return {name: took, name + SYNCED: took.then(run(["sync", "-f", at]))}
        return Side(name, go, lambda: same.check(name, at / "tree"))

    sides = [Side(OURS, ours, ours=True), *map(peer, peers)]
    try:
        runs = turns(title, sides, bench.pairs, bench.tell)
    finally:
        shutil.rmtree(at, ignore_errors=True)
    rows = [row(OURS, runs[OURS], ours=True)]
    # Those that the figure to reach does not speak of stand there without a ratio.
    rows += [row(name, runs[name], compared=not durable) for name in peers]
    rows += [row(name + SYNCED, runs[name + SYNCED], compared=durable) for name in peers]
    note = f"{archive.path.stat().st_size:,} bytes of {len(same.first):,} entries; all trees are the same"
    if not durable:
        durably = [(median(each.values), each.name) for each in rows if each.name.endswith(SYNCED)]
        best, name = min(durably)
        note += f"; beside what is as durable as ours: {median(rows[0].values) / best:.2f} of {name}"
    return [Line(job, title, rows, reach, note=note)]


PEERS = [WGET, CURL, ARIA2, IGZIP]


def platform(bench):
    """The platform from loopback."""
    return warm(bench, "warm-platform", "cold warm-up, platform tgz, loopback nginx", bench.data.platform(),
                bench.origin.url, PEERS, [(WGET, 0.4), (BEST, 0.7)])


def linux(bench):
    """The Linux tree from loopback."""
    return warm(bench, "warm-linux", "cold warm-up, Linux tree tgz, loopback nginx, durable", bench.data.linux(),
                bench.origin.url, PEERS, [(BEST, 0.8)], durable=True)


CONNECTIONS = "      connections: 4\n"


def limited(bench):
    """The platform from an origin that limits each connection."""
    archive, base = bench.data.platform(), bench.origin.limited
    asked = bench.work / "connections.yaml"
    asked.write_text(archive.document(base, CONNECTIONS))
    said = subprocess.run([bench.seedcache, "check", asked], capture_output=True, text=True)
    if said.returncode != 0:
        raise Failed(f"this seedcache knows no `connections: 4`: {' '.join((said.stdout + said.stderr).split())}")
    return warm(bench, "warm-limited", "cold warm-up, platform tgz, 30 MB/s per connection, connections: 4", archive, base,
                [CURL, ARIA2_4], [(CURL, 0.3), (ARIA2_4, 1.0)], CONNECTIONS)
