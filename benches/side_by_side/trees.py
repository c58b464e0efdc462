"""Whether two trees are the same: names, types, modes, owners, sizes, times, targets of links and bytes."""

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor

from .measure import Failed


def digest(path):
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(root):
    """Every entry below `root` by its path. Write bits do not count: a published tree has none."""
    found, files = {}, []
    waiting = [os.path.realpath(root)]
    top = waiting[0]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            meta = entry.stat(follow_symlinks=False)
            name = os.path.relpath(entry.path, top)
            kind, mode = stat.S_IFMT(meta.st_mode), stat.S_IMODE(meta.st_mode) & ~0o222
            facts = {"type": kind, "owner": (meta.st_uid, meta.st_gid), "mtime": meta.st_mtime_ns}
            if stat.S_ISLNK(kind):
                facts["target"] = os.readlink(entry.path)
            else:
                facts["mode"] = oct(mode)
            if stat.S_ISDIR(kind):
                waiting.append(entry.path)
            elif stat.S_ISREG(kind):
                facts["size"] = meta.st_size
                files.append((entry.path, facts))
            found[name] = facts
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (_, facts), sha256 in zip(files, pool.map(digest, [path for path, _ in files])):
            facts["sha256"] = sha256
    return found


class Same:
    """Holds the first tree that it is shown, and every other against it."""

    def __init__(self):
        self.first = None

    def check(self, who, root):
        """Fails on the first difference."""
        this = listing(root)
        if not this:
            raise Failed(f"{who}: nothing in {root}")
        if self.first is None:
            self.who, self.first = who, this
            return
        for name in sorted(self.first.keys() | this.keys()):
            one, other = self.first.get(name), this.get(name)
            if one != other:
                raise Failed(f"not the same tree: {name} is {one} of {self.who}, {other} of {who}")
