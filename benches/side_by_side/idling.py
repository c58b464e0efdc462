"""Memory while it warms, and what a daemon costs that has nothing to do."""

import re
import subprocess
import time
from collections import Counter
from pathlib import Path

from .measure import Failed
from .report import Line, Row
from .warming import told_to_warm

# Seconds of rest before memory is looked at, and of strace.
REST = 60
# What a blocked thread comes back from when its time is up.
TIMER = re.compile(r"(epoll_p?wait2?\(.*= 0$|(futex|restart_syscall)\(.*ETIMEDOUT|(clock_)?nanosleep\(.*= 0$|p?poll\(.*= 0 \(Timeout)")
WAITS = re.compile(r"(epoll_p?wait2?\(|futex\(.*FUTEX_WAIT(?!.*EAGAIN)|(clock_)?nanosleep\(|p?poll\()")


def switches(node):
    """How often its threads gave up the processor by themselves, to wait."""
    total = 0
    for status in Path(f"/proc/{node.child.pid}/task").glob("*/status"):
        total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.M)[1])
    return total


def traced(node, log):
    """Waits that a thread came back from in REST seconds: for a timer, for anything else; how many of them were of which
    thread; and the system calls by name."""
    tasks = Path(f"/proc/{node.child.pid}/task")
    threads = {task.name: (task / "comm").read_text().strip() for task in tasks.iterdir()}
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-tt", "-o", log, "-p", str(node.child.pid)], stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE)
    try:
        time.sleep(REST)
    finally:
        tracer.terminate()
        tracer.wait(30)
    timers, others, woken, calls, begun = 0, 0, Counter(), Counter(), {}
    for line in log.read_text(errors="replace").splitlines():
        thread, _, said = line.split(None, 2)
        if said.endswith("<unfinished ...>"):
            begun[thread] = said.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", said):
            said = begun.pop(thread, "") + resumed[1]
        elif not re.match(r"\w+\(", said):
            continue
        if "(" in said:
            calls[said.partition("(")[0]] += 1
        if TIMER.search(said) or WAITS.match(said):
            woken[threads.get(thread, "others")] += 1
        if TIMER.search(said):
            timers += 1
        elif WAITS.match(said):
            others += 1
    return timers, others, woken, calls


def idle(bench):
    """Warms both trees, one after the other, each into a fresh daemon; the second one then rests."""
    lines = []
    for archive in (bench.data.linux(), bench.data.platform()):
        document = archive.document(bench.origin.url)
        node, took = told_to_warm(bench, archive, {archive.name: document})
        try:
            title = f"peak memory of the warm-up of {archive.name}"
            lines.append(Line("idle", title, [Row("seedcache", [took.rss / 1024], ours=True)], [(None, 64)], "MiB"))
            if archive.name == "platform":
                lines += _rest(bench, node)
        finally:
            node.stop()
    return lines


def _rest(bench, node):
    bench.tell(f"resting for {REST} s")
    time.sleep(REST)
    resident, cpu, waits = node.memory("VmRSS") / 1024, node.cpu(), switches(node)
    time.sleep(REST)
    cpu, waits = node.cpu() - cpu, switches(node) - waits
    bench.tell(f"tracing for {REST} s")
    timers, others, woken, calls = traced(node, bench.work / "strace")
    if node.child.poll() is not None:
        raise Failed("the daemon ended while it was looked at")
    most, who = (", ".join(f"{name} {count}" for name, count in counted.most_common(8)) for counted in (calls, woken))
    rss = Line("idle", f"memory after a warm-up and {REST} s of rest", [Row("seedcache", [resident], ours=True)], [(None, 15)],
               "MiB")
    wakes = Line("idle", f"wake-ups in {REST} s of rest", [Row("seedcache", [waits], ours=True),
                 Row("of them by timers, in another minute of strace", [timers], compared=False),
                 Row("by anything else, in that minute", [others], compared=False)], [], "",
                 note=f"{cpu:.2f} s of CPU in that minute; threads of strace's: {who}; system calls: {most}")
    return [rss, wakes]
