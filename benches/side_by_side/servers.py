"""nginx on loopback, as origin and as peer, and our daemon. Each is a session of its own, as every run of a peer
is: where a kernel shares its processors among sessions, none of them lives on another's share."""

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .measure import Failed, Processes, until

# Bytes per second of each connection to the limited origin.
LIMITED = 30_000_000


def free_port():
    """A port that nobody listened on a moment ago."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Nginx(Processes):
    """Serves `files` from two ports: as fast as it can, and LIMITED. Configuration, log and temporary files are its own."""

    def __init__(self, files, work):
        work.mkdir()
        fast, slow = free_port(), free_port()
        temp = " ".join(f"{kind}_temp_path {work}/{kind};" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (work / "nginx.conf").write_text(
            f"daemon off; user root; pid {work}/pid; error_log {work}/error.log; worker_processes auto;\n"
            "events {}\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; {temp}\n"
            f"  server {{ listen 127.0.0.1:{fast}; root {files}; }}\n"
            f"  server {{ listen 127.0.0.1:{slow}; root {files}; limit_rate {LIMITED}; }} }}\n")
        self.log = work / "error.log"
        self.child = subprocess.Popen(["nginx", "-c", f"{work}/nginx.conf", "-e", self.log], stdin=subprocess.DEVNULL,
                                      start_new_session=True)
        self.url, self.limited = f"http://127.0.0.1:{fast}", f"http://127.0.0.1:{slow}"
        until("nginx to answer", self.answers)

    def answers(self):
        """Whether it does."""
        if self.child.poll() is not None:
            raise Failed(f"nginx ended: {self.log.read_text()}")
        try:
            urllib.request.urlopen(self.url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def pids(self):
        """The master and its workers."""
        master = self.child.pid
        return [master, *map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split())]

    def stop(self):
        """Ends it."""
        self.child.terminate()
        self.child.wait(30)


class Node(Processes):
    """Our daemon over an empty store below `at`, with `documents` by name."""

    def __init__(self, seedcache, at, documents):
        self.seedcache, self.at = seedcache, at
        (at / "config").mkdir(parents=True)
        for name, document in documents.items():
            (at / "config" / f"{name}.yaml").write_text(document)
        port = free_port()
        self.url, self.socket = f"http://127.0.0.1:{port}", f"unix://{at}/s.sock"
        self.env = {"SEEDCACHE_SERVER": self.socket}
        # As the DaemonSet has it.
        tunables = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=131072:"
                                      "glibc.malloc.trim_threshold=131072"}
        with open(at / "log", "wb") as log:
            self.child = subprocess.Popen([seedcache, "serve", "--config", at / "config", "--root", at / "data", "--listen",
                                           f"127.0.0.1:{port}", "--socket", at / "s.sock"],
                                          env={**os.environ, **tunables}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          start_new_session=True)
        until("the daemon to answer", lambda: self.ask("status", "-o", "json") is not None)

    def ask(self, *arguments):
        """What a command of the client answers as JSON; nothing when it fails."""
        if self.child.poll() is not None:
            raise Failed(f"the daemon ended: {(self.at / 'log').read_text()[-2000:]}")
        ran = subprocess.run([self.seedcache, *arguments], env={**os.environ, **self.env}, capture_output=True, timeout=600)
        return json.loads(ran.stdout) if ran.returncode == 0 else None

    def state(self, name):
        """The state of an artifact."""
        with urllib.request.urlopen(f"{self.url}/v1/artifacts/{name}", timeout=60) as answer:
            return json.load(answer)

    def ready(self, name):
        """Waits until it has a version; the directory of that."""
        def has():
            state = self.state(name)
            if state["state"] == "Failed":
                raise Failed(f"{name}: {state['lastError']}")
            return state["current"] and state["state"] == "Ready"
        until(f"{name} to be ready", has, 900, 0.1)
        return self.tree(name)

    def tree(self, name):
        """Where the current version of an artifact lies."""
        return self.at / "data" / ".seedcache" / "current" / name

    def files(self, name):
        """The address that its files are served below."""
        return f"{self.url}/v1/artifacts/{name}/versions/current"

    def pids(self):
        """The one process."""
        return [self.child.pid]

    def stop(self):
        """Ends it and removes what it kept."""
        self.child.terminate()
        try:
            self.child.wait(60)
        finally:
            shutil.rmtree(self.at)
