"""Lines of the table: who did what in how much, and how we stand beside the figure to reach."""

from dataclasses import dataclass, field
from statistics import median

BEST = "the best peer"


@dataclass
class Row:
    """One side of a line: a value, seconds of CPU and KiB of each run. Values that are `compared` have the ratios."""

    name: str
    values: list
    cpu: list = field(default_factory=list)
    rss: list = field(default_factory=list)
    ours: bool = False
    compared: bool = True


@dataclass
class Line:
    """A job's outcome. `reach` holds (peer or BEST, ratio), or (None, the most) for a figure that has no peer."""

    job: str
    title: str
    rows: list
    reach: list
    unit: str = "s"
    more_is_better: bool = False
    note: str = ""

    def ours(self):
        """Our row."""
        return next(row for row in self.rows if row.ours)

    def best(self):
        """The best peer's row."""
        peers = [row for row in self.rows if not row.ours and row.compared]
        return (max if self.more_is_better else min)(peers, key=lambda row: median(row.values)) if peers else None

    def verdicts(self):
        """Against whom, the ratio (or our figure), the figure to reach, whether it is reached."""
        mine = median(self.ours().values)
        for peer, figure in self.reach:
            if peer is None:
                yield "", mine, figure, mine < figure
                continue
            row = self.best() if peer == BEST else next(row for row in self.rows if row.name == peer)
            ratio = mine / median(row.values)
            yield row.name, ratio, figure, ratio >= figure if self.more_is_better else ratio <= figure

    def as_json(self):
        """For a file."""
        return {
            "job": self.job, "title": self.title, "unit": self.unit, "moreIsBetter": self.more_is_better, "note": self.note,
            "rows": [{"name": row.name, "ours": row.ours, "compared": row.compared, "median": median(row.values),
                      "values": row.values, "cpuSeconds": row.cpu, "peakRssKiB": row.rss} for row in self.rows],
            "verdicts": [{"against": peer, "ratio": ratio, "reach": figure, "reached": reached, "best": asked == BEST}
                         for (asked, _), (peer, ratio, figure, reached) in zip(self.reach, self.verdicts())],
        }

    def text(self):
        """For people."""
        best = self.best()
        out = [f"\n{self.title}  [{self.job}]",
               f"  {'':<46} {'median ' + self.unit:>14} {'min - max':>21} {'CPU s':>8} {'peak MiB':>9} {'ratio':>7}"]
        for row in self.rows:
            span = f"{figure(min(row.values))} - {figure(max(row.values))}"
            cpu = f"{median(row.cpu):.2f}" if row.cpu else "-"
            rss = f"{median(row.rss) / 1024:.1f}" if row.rss else "-"
            ratio = f"{median(row.values) / median(best.values):.2f}x" if best and row.compared else "-"
            out.append(f"  {row.name:<46} {figure(median(row.values)):>14} {span:>21} {cpu:>8} {rss:>9} {ratio:>7}")
        for peer, ratio, limit, reached in self.verdicts():
            sign = "at least" if self.more_is_better else "under" if not peer else "at most"
            told = f"{ratio:.2f} of {peer}" if peer else f"{figure(ratio)} {self.unit}"
            out.append(f"  {told}, to reach: {sign} {limit:g}: {'reached' if reached else 'NOT REACHED'}")
        if self.note:
            out.append(f"  {self.note}")
        return "\n".join(out)


def figure(value):
    """Three digits that matter, at least."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def row(name, runs, ours=False, compared=True):
    """Of runs."""
    return Row(name, [run.value for run in runs], [run.cpu for run in runs], [run.rss for run in runs], ours, compared)
