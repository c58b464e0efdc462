"""Serving what is there: one large file, many small ones, and the tree as a stream. All of it lies in the page cache."""

import re
import shutil

from .data import SMALL_FILES, STAMP, from_file
from .measure import TICK, Failed, Run, Side, run, shell, turns
from .report import BEST, Line, Row, row
from .servers import Node
from .trees import Same
from .warming import RIGHT_TIMES

NGINX = "nginx, sendfile"
# Bytes that each run has at least sent, so that ticks of 10 ms are few beside what it takes.
AT_LEAST = 2_800_000_000
# Seconds of each run of wrk.
WRK = 5


def clients(count, each, url):
    """So many curls at once, each of which asks so many times over its one connection."""
    urls = f'"{url}" -o /dev/null ' * each
    return f"for _ in $(seq {count}); do curl -fsS {urls} & all+=($!); done; for one in ${{all[@]}}; do wait $one; done"


def sha256_of(url):
    """Of what is served there."""
    return shell(f'curl -fsS "{url}" | sha256sum').out.split()[0]


def same_bytes(urls):
    """Fails unless all of them serve the same."""
    if len({sha256_of(url) for url in urls}) != 1:
        raise Failed(f"not the same bytes: {' '.join(urls)}")


def large(bench):
    """One file of 350 MB to 1, 8 and 64 clients."""
    archive = bench.data.platform()
    node = Node(bench.seedcache, bench.fresh("node"), {"platform": archive.by_path()})
    at, lines = bench.data.origin / "tree", []
    try:
        path = f"platform-{STAMP}/i86pc/amd64/boot_archive"
        shutil.copytree(node.ready("platform"), at, symlinks=True)
        theirs, ours = f"{bench.origin.url}/tree/{path}", f"{node.files('platform')}/files/{path}"
        size = (at / path).stat().st_size
        same_bytes([theirs, ours])
        for count in (1, 8, 64):
            each = -(-AT_LEAST // (size * count))
            sent, cpu = size * count * each, {}

            def side(name, server, url, is_ours):
                def go(round):
                    server.forget_peak()
                    before = server.cpu()
                    took = shell(clients(count, each, url))
                    used = server.cpu() - before
                    if round > 0:
                        cpu.setdefault(name, []).append(used / sent * 1e9)
                    return Run(sent / took.value / 1e9, used, server.peak())
                return Side(name, go, ours=is_ours)

            title = f"serve one 350 MB file to {count} client{'s' if count > 1 else ''}"
            runs = turns(title, [side("seedcache", node, ours, True), side(NGINX, bench.origin, theirs, False)],
                         bench.pairs, bench.tell)
            job = "serve-large"
            lines.append(Line(job, f"{title}, throughput", [row("seedcache", runs["seedcache"], True), row(NGINX, runs[NGINX])],
                              [(BEST, 0.9)], "GB/s", True, f"{sent / 1e9:.1f} GB each time to curl; CPU is the server's alone"))
            lines.append(Line(job, f"{title}, the server's CPU per GB", [Row("seedcache", cpu["seedcache"], ours=True),
                              Row(NGINX, [max(used, TICK / sent * 1e9) for used in cpu[NGINX]])], [(BEST, 1.2)], "s/GB"))
    finally:
        node.stop()
        shutil.rmtree(at, ignore_errors=True)
    return lines


def small(bench):
    """Files of 4 KiB over 64 connections."""
    node = Node(bench.seedcache, bench.fresh("node"), {"small": from_file("small", bench.data.small())})
    at, script = bench.data.origin / "small-tree", bench.work / "small.lua"
    script.write_text("local asked, n = {}, 0\n"
                      "init = function()\n"
                      f"  for i = 0, {SMALL_FILES - 1} do asked[i] = wrk.format('GET', wrk.path .. string.format('%04d', i)) end\n"
                      f"end\nrequest = function() n = (n + 1) % {SMALL_FILES}; return asked[n] end\n")
    try:
        shutil.copytree(node.ready("small"), at)
        theirs, ours = f"{bench.origin.url}/small-tree/small", f"{node.files('small')}/files/small"
        same_bytes([f"{theirs}/0123", f"{ours}/0123"])
        rate = re.compile(r"Requests/sec:\s+([0-9.]+)")

        def side(name, server, url, is_ours):
            def go(_):
                server.forget_peak()
                before = server.cpu()
                said = run(["wrk", "-t2", "-c64", f"-d{WRK}s", "-s", script, f"{url}/"]).out
                used = server.cpu() - before
                if "Non-2xx" in said or "Socket errors" in said:
                    raise Failed(f"{name}: {said}")
                return Run(float(rate.search(said)[1]), used, server.peak())
            return Side(name, go, ours=is_ours)

        title = "serve 4 KiB files over 64 connections, wrk"
        runs = turns(title, [side("seedcache", node, ours, True), side(NGINX, bench.origin, theirs, False)], bench.pairs,
                     bench.tell)
        return [Line("serve-small", title, [row("seedcache", runs["seedcache"], True), row(NGINX, runs[NGINX])],
                     [(BEST, 0.7)], "req/s", True, f"{SMALL_FILES} files in turn, {WRK} s each time; CPU is the server's alone")]
    finally:
        node.stop()
        shutil.rmtree(at, ignore_errors=True)


def tree_tar(bench):
    """The Linux tree as one stream."""
    archive = bench.data.linux()
    node = Node(bench.seedcache, bench.fresh("node"), {"linux": archive.by_path()})
    plain, unpacked, same = bench.fresh("plain"), bench.work / "unpacked", Same()
    try:
        plain.mkdir()
        tree = node.ready("linux")
        run(["tar", "xzf", archive.path, "-C", plain], env=RIGHT_TIMES)
        bench.settle(archive.path)
        # `cat` between: tar reads no file whose bytes go to /dev/null.
        commands = {"seedcache tree.tar": (f'curl -fsS "{node.files("linux")}/tree.tar"', node, tree),
                    "tar c": (f"tar c -C '{plain}' .", None, plain)}

        def side(name):
            command, server, source = commands[name]

            def go(_):
                run(["sync", "-f", bench.work])
                return shell(f"{command} | cat >/dev/null", server=server)

            def check():
                unpacked.mkdir()
                shell(f"{command} | tar x -C '{unpacked}'", env=RIGHT_TIMES)
                same.check(name, unpacked)
                shutil.rmtree(unpacked)
            for _ in range(2):
                shell(f"cd '{source}/' && tar c . | cat >/dev/null")
            return Side(name, go, check, server is not None)

        title = "tree.tar of the Linux tree, warm cache"
        names = list(commands)
        runs = turns(title, [side(name) for name in names], bench.pairs, bench.tell)
        return [Line("tree-tar", title, [row(names[0], runs[names[0]], True), row(names[1], runs[names[1]])], [(BEST, 1.0)],
                     note=f"{len(same.first):,} entries, both streams unpack to the same tree")]
    finally:
        node.stop()
        shutil.rmtree(plain, ignore_errors=True)
        shutil.rmtree(unpacked, ignore_errors=True)
