"""What the jobs work on, made once and kept for the next run where `--data` says."""

import os
import random
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .trees import digest

HERE = Path(__file__).parent.parent
STAMP = "20260101T000000Z"
LINUX = "/usr/src/linux-source-6.1.tar.xz"
# How many files of 4 KiB are asked for in turn.
SMALL_FILES = 1000


@dataclass
class Archive:
    """A .tgz in a directory that nginx serves, beside its sums file. What else lies there, `latest`, comes and goes."""

    name: str
    path: Path
    sha256: str

    def at(self, base):
        """What scripts of peers call it, for an origin at `base`."""
        where = f"{base}/{self.name}/{STAMP}"
        return {"URL": f"{where}/{self.path.name}", "SUMS": f"{where}/sha256sums.txt", "FILE": self.path.name,
                "SHA": self.sha256}

    def latest(self):
        """The pointer object: while it is not there, there is nothing to warm."""
        return self.path.parent.parent / "latest"

    def document(self, base, more=""):
        """The Artifact that has it, from an origin at `base`."""
        return (f"apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: {self.name}}}\nspec:\n"
                f"  source:\n    http:\n      latest: {{url: {base}/{self.name}/latest, pattern: '^(?<version>[0-9TZ]+)$'}}\n"
                f"      checksums: {{url: '{base}/{self.name}/{{version}}/sha256sums.txt', file: '*.tgz'}}\n"
                f"      url: '{base}/{self.name}/{{version}}/{{file}}'\n{more}")

    def by_path(self):
        """The same of its file, for jobs that need it there and do not ask how it came."""
        return from_file(self.name, self.path)


def from_file(name, path):
    """A document of a file's one version."""
    return (f"apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: {name}}}\n"
            f"spec: {{version: v1, source: {{file: {{path: {path}}}}}}}\n")


class Data:
    """Makes what is asked for, below `at`."""

    def __init__(self, at, tell):
        self.at, self.tell = at, tell
        self.origin = at / "origin"
        self.origin.mkdir(parents=True, exist_ok=True)
        os.chmod(at, 0o755)

    def platform(self):
        """The platform, 350 MB of it its boot archive."""
        def make(to):
            made = self.at / "making"
            shutil.rmtree(made, ignore_errors=True)
            subprocess.run([HERE / "make-platform", made / f"platform-{STAMP}", STAMP], check=True)
            pipe(f"tar -C '{made}' --sort=name --owner=0 --group=0 -c 'platform-{STAMP}' | gzip -n >'{to}'")
            shutil.rmtree(made)
        return self._archive("platform", make)

    def linux(self):
        """The Linux tree, 83,000 entries."""
        return self._archive("linux", lambda to: pipe(f"xz -dc {LINUX} | gzip -n >'{to}'"))

    def small(self):
        """A tar file of SMALL_FILES files of 4 KiB, `0000` and so on."""
        path = self.at / "small.tar"
        if not path.exists():
            made = self.at / "making"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            for i in range(SMALL_FILES):
                (made / f"{i:04}").write_bytes(random.Random(i).randbytes(4096))
            with tarfile.open(f"{path}.part", "w") as tar:
                tar.add(made, "small")
            os.rename(f"{path}.part", path)
            shutil.rmtree(made)
        return path

    def _archive(self, name, make):
        path = self.origin / name / STAMP / f"{name}-{STAMP}.tgz"
        if not path.exists():
            self.tell(f"making {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            make(f"{path}.part")
            os.rename(f"{path}.part", path)
        sha256 = digest(path)
        (path.parent / "sha256sums.txt").write_text(f"{sha256}  {path.name}\n")
        archive = Archive(name, path, sha256)
        archive.latest().unlink(missing_ok=True)
        return archive


def pipe(script):
    """Runs a pipe that must not fail."""
    subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], check=True)
