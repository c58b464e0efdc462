"""The machine: what must be installed, and what it is, in words."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from .measure import Failed

# What is run or read, and the Debian package that has it.
NEEDS = [("nginx", "nginx-light"), ("wget", "wget"), ("aria2c", "aria2"), ("pigz", "pigz"), ("igzip", "isal"),
         ("rsync", "rsync"), ("wrk", "wrk"), ("strace", "strace"), ("curl", "curl"), ("/usr/bin/time", "time"),
         ("/usr/src/linux-source-6.1.tar.xz", "linux-source-6.1"), ("xz", "xz-utils"), ("tar", "tar")]


def install():
    """Installs what is missing. Needs root, as owners and modes of unpacked files do."""
    if os.geteuid() != 0:
        raise Failed("it needs root: archives are unpacked with their owners")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [package for what, package in NEEDS
               if not (os.path.exists(what) if what.startswith("/") else shutil.which(what))]
    if missing:
        subprocess.run(["apt-get", "update", "-q"], check=True)
        subprocess.run(["apt-get", "install", "-qy", "--no-install-recommends", *missing], check=True,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def words(at):
    """What to know of the machine to read the figures; `at` lies on the file system that was used."""
    def field(path, name):
        return next((line.partition(":")[2].strip() for line in Path(path).read_text().splitlines()
                     if line.startswith(name)), "unknown")

    kind = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", at], capture_output=True, text=True, check=True)
    return {
        "cpu": field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memoryGiB": round(int(field("/proc/meminfo", "MemTotal").split()[0]) / 1048576),
        "kernel": platform.release(),
        "fileSystem": kind.stdout.strip(),
        "loadBefore": round(os.getloadavg()[0], 1),
    }


def versions(seedcache):
    """Ours and the peers', as they say it themselves."""
    told = {}
    # Ours has any name.
    for argv in ([seedcache, "--version"], ["nginx", "-v"], ["wget", "--version"], ["curl", "--version"],
                 ["aria2c", "--version"], ["pigz", "--version"], ["igzip", "--version"], ["tar", "--version"],
                 ["rsync", "--version"], ["wrk", "-v"]):
        ran = subprocess.run(argv, capture_output=True, text=True)
        said = (ran.stdout + ran.stderr).strip().splitlines()
        told["seedcache" if argv[0] == seedcache else argv[0]] = said[0] if said else "unknown"
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                            cwd=Path(__file__).parent)
    told["commit"] = commit.stdout.strip()
    return told
