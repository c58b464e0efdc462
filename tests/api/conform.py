#!/usr/bin/env python3
"""Holds the running daemon against /openapi.json: as a document, and answer by answer under what schemathesis thinks up.

Run by tests/run, which installs what it needs. SEEDCACHE is the binary; `--seconds N` has each of the three callers (over
TCP without and with the token, and over the Unix socket) asked for so long.
"""
import argparse
import contextlib
import http.client
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import openapi_spec_validator

HERE = pathlib.Path(__file__).resolve().parent
SEEDCACHE = os.environ.get("SEEDCACHE", str(HERE.parent.parent / "target/release/seedcache"))
TOKEN = "conform"
# Its answer has no end; tests/it/events.rs reads it.
ENDLESS = "/v1/events"
DOCUMENT = """\
apiVersion: seedcache.dev/v1alpha1
kind: Artifact
metadata: {{name: {name}}}
spec:
  source: {{file: {{path: '{archive}'}}}}
  version: v1
  keepArchive: true
  seeds: [{{target: declared/{name}, link: copy}}]
"""


class Daemon:
    """The real binary in a directory of its own, with two artifacts that are there."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        config = self.directory / "config"
        config.mkdir()
        (self.directory / "token").write_text(TOKEN)
        (config / "seedcache.yaml").write_text(f"listen: {{tokenFile: '{self.directory}/token'}}\n")
        for name in ["app", "other"]:
            archive = self.directory / f"{name}.tgz"
            write_archive(archive)
            (config / f"{name}.yaml").write_text(DOCUMENT.format(name=name, archive=archive))
        self.socket = self.directory / "s"
        self.log = self.directory / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self):
        command = [SEEDCACHE, "serve", "--config", self.directory / "config", "--root", self.directory / "root"]
        command += ["--listen", f"127.0.0.1:{self.port}", "--socket", self.socket]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            for name in ["app", "other"]:
                self.wait_ready(name)
        except BaseException:
            self.__exit__()
            print(self.log.read_text(errors="replace"), file=sys.stderr)
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def wait_ready(self, name):
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                if self.get(f"/v1/artifacts/{name}/wait?timeout=30").status == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} is not ready")
            time.sleep(0.05)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.text = answer.read().decode()
        connection.close()
        return answer

    def defects(self):
        """What must not be in any log, whoever asked what."""
        if self.process.poll() is not None:
            return [f"the daemon ended with {self.process.returncode}"]
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "panicked" in line or "defect of seedcache" in line or TOKEN in line]


def write_archive(path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"VERSION": b"v1", "dir/file": b"deep", "names/with space": b""}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))


class Bridge:
    """An address over TCP that leads to the Unix socket: schemathesis knows no other."""

    def __init__(self, path):
        self.path = str(path)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.path)
            for one, other in [(near, far), (far, near)]:
                threading.Thread(target=self.pump, args=(one, other), daemon=True).start()

    @staticmethod
    def pump(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)


def ask_much(daemon, name, port, told, seconds, directory):
    """Whether schemathesis found nothing, asking for so long."""
    document = directory / "openapi.json"
    document.write_text(daemon.get("/openapi.json").text)
    command = [
        pathlib.Path(sys.executable).parent / "schemathesis", "--config-file", HERE / "schemathesis.toml",
        "run", document, "--url", f"http://127.0.0.1:{port}", "--exclude-path", ENDLESS,
        "--max-time", str(seconds), "--request-timeout", "30", "--no-color",
        "--generation-database", "none", "--seed", str(SEED), *told,
    ]
    began = time.monotonic()
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py"), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, env=environment)
    took = time.monotonic() - began
    found = ran.returncode != 0
    cases = re.search(r"([0-9,]+) generated", ran.stdout)
    print(f"{name}: {'FAILED' if found else 'nothing found'}, {cases and cases[1]} cases in {took:.0f} s", flush=True)
    if found:
        print(ran.stdout, ran.stderr)
    # A run that asked nothing has shown nothing.
    return not found and cases is not None


# What is asked is the same each time, as far as the time goes: another number asks other things.
SEED = int(os.environ.get("SEED", "1"))
# A version that is deleted comes back by itself where a document declares it.
LEVEL = "use_after_free,ensure_resource_availability"
# The owner on the socket needs no token, which no document can say of an address: what is asked without one is answered.
OWNER = f"{LEVEL},ignored_auth,missing_required_header,negative_data_rejection"
TOLD = {
    "open": ["--exclude-checks", LEVEL],
    "token": ["--exclude-checks", LEVEL, "-H", f"Authorization: Bearer {TOKEN}"],
    "socket": ["--exclude-checks", OWNER],
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=12, help="for each caller (default: %(default)s)")
    arguments.add_argument("--only", choices=["open", "token", "socket"], help="this caller alone")
    given = arguments.parse_args()
    # So that the daemon is ended with this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    good = True
    with tempfile.TemporaryDirectory() as directory:
        for caller in ["open", "token", "socket"]:
            if given.only not in (None, caller):
                continue
            own = pathlib.Path(directory) / caller
            own.mkdir()
            with Daemon(own) as daemon:
                openapi_spec_validator.validate(json.loads(daemon.get("/openapi.json").text))
                port = Bridge(daemon.socket).port if caller == "socket" else daemon.port
                good &= ask_much(daemon, caller, port, TOLD[caller], given.seconds, own)
                for defect in daemon.defects():
                    print(f"{caller}: {defect}")
                    good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
