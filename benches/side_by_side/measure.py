"""One run of a program: wall time, CPU time and peak memory, of what was started and of a server that did work for it."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
# Longest run of anything here, in seconds.
LIMIT = 1800


class Failed(Exception):
    """A job that could not be measured, and why."""


@dataclass
class Run:
    """What one run took: seconds of the clock, seconds of CPU, KiB of the largest process."""

    value: float
    cpu: float
    rss: int

    def then(self, other):
        """This run and, at once, another."""
        return Run(self.value + other.value, self.cpu + other.cpu, max(self.rss, other.rss))


def run(argv, cwd=None, env=None, server=None):
    """Runs `argv`. CPU time is that of all its children and, where one is given, of `server`, whose memory is then told
    in place of theirs. Memory of children is read by time(1), a small parent: a process counts its parent's pages, too,
    until its exec, and ours are more than tar's."""
    with tempfile.TemporaryDirectory() as at, open(f"{at}/out", "w+b") as out, open(f"{at}/err", "w+b") as err:
        argv = ["/usr/bin/time", "-q", "-f", "%M", "-o", f"{at}/rss", *map(str, argv)]
        if server:
            server.forget_peak()
            before = server.cpu()
        start = time.monotonic()
        child = subprocess.Popen(argv, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=err, start_new_session=True)
        late = threading.Timer(LIMIT, os.killpg, (child.pid, signal.SIGKILL))
        late.start()
        _, status, usage = os.wait4(child.pid, 0)
        took = time.monotonic() - start
        late.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            err.seek(0)
            said = err.read()[-2000:].decode(errors="replace").strip()
            raise Failed(f"`{' '.join(argv[6:])}` ended with {child.returncode}: {said}")
        cpu, rss = usage.ru_utime + usage.ru_stime, int(Path(f"{at}/rss").read_text().split()[-1])
        if server:
            cpu, rss = cpu + server.cpu() - before, server.peak()
        out.seek(0)
        done = Run(took, cpu, rss)
        done.out = out.read(1 << 20).decode(errors="replace")
        return done


def shell(script, cwd=None, env=None, server=None):
    """Runs a bash script; any part of a pipe that fails, fails it."""
    return run(["bash", "-e", "-o", "pipefail", "-c", script], cwd, env, server)


class Processes:
    """The processes of a server, seen from outside."""

    def pids(self):
        """Which they are now."""
        raise NotImplementedError

    def cpu(self):
        """Seconds of CPU so far. A process's threads that ended count."""
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total * TICK

    def memory(self, field):
        """KiB of a field of /proc/PID/status, of all of them."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    total += int(line.split()[1])
        return total

    def forget_peak(self):
        """The peak of memory starts from what is used now."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self):
        """KiB since then."""
        return self.memory("VmHWM")


def until(what, done, limit=60, pause=0.02):
    """Waits until `done` says something true, and returns that."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if answer := done():
            return answer
        time.sleep(pause)
    raise Failed(f"{what}: not within {limit} s")


@dataclass
class Side:
    """One of those that take turns: `go(round)` does the job once, `check()` looks at what round 0 made."""

    name: str
    go: object
    check: object = None
    ours: bool = False


def turns(title, sides, pairs, tell):
    """A B A B: every side in each of `pairs` rounds, after one round that warms and is checked. Runs by side's name; a
    side's `go` may give several, by name."""
    runs = {}
    for round in range(pairs + 1):
        for side in sides:
            given = side.go(round)
            if round == 0:
                if side.check:
                    side.check()
                tell(f"{title}: {side.name} has warmed up" + (", its result is checked" if side.check else ""))
                continue
            for name, one in (given if isinstance(given, dict) else {side.name: given}).items():
                runs.setdefault(name, []).append(one)
                tell(f"{title}, {round} of {pairs}: {name} {one.value:.3f}")
    return runs
