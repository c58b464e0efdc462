"""Seeds: what benches/seed measures, taken from there."""

import json
import os
import subprocess

from .measure import Failed
from .report import BEST, Line, Row

SEED = "seedcache seed"


def _tables(bench, job, stand, trees, reach):
    told = bench.work / f"{job}.json"
    env = {**os.environ, "SEEDCACHE": str(bench.seedcache), "BENCH_DIR": str(bench.work), "BENCH_JSON": str(told),
           "BENCH_TABLES": stand}
    bench.tell(f"benches/seed {bench.pairs} {' '.join(trees)}, those of {stand}")
    ran = subprocess.run([bench.here / "seed", str(bench.pairs), *trees], env=env, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        raise Failed(f"benches/seed ended with {ran.returncode}: {ran.stderr[-2000:]}")
    lines = {}
    for told_row in map(json.loads, told.read_text().splitlines()):
        title, name = told_row["title"], told_row["job"]
        # A seed that follows another's removal reads files again: told, but nothing is asked of it.
        asked = [] if "read again" in title else [(BEST, reach)]
        line = lines.setdefault(title, Line(job, f"seed, {title}", [], asked))
        line.rows.append(Row(name, [us / 1e6 for us in told_row["us"]], [ms / 1e3 for ms in told_row["cpuMs"]],
                             [told_row["peakKiB"]], ours=name.startswith(SEED)))
    return list(lines.values())


def fresh(bench):
    """Into fresh directories."""
    return _tables(bench, "seed", "fresh", ["platform", "linux"], 1.0)


def there(bench):
    """Where the tree is already, every entry checked."""
    return _tables(bench, "seed-there", "there", ["linux"], 0.5)
