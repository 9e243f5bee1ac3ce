"""A server of its own for a script, and a receiver that keeps what it gets."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PATIENCE = 30
# Versions that are built already, for the server: what a program asks for beside them is added.
LOCK = Path(__file__).resolve().parents[4] / "Cargo.lock"


def cargo(folder, manifest, source):
    """Builds a user's program in Rust, and returns where it is."""
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "Cargo.toml").write_text(manifest)
    (folder / "src/main.rs").write_text(source)
    if not (folder / "Cargo.lock").exists():
        shutil.copy(LOCK, folder / "Cargo.lock")
    made = subprocess.run(["cargo", "build", "--quiet"], cwd=folder, stderr=subprocess.PIPE, text=True)
    if made.returncode:
        raise AssertionError(f"the Rust program does not build:\n{made.stderr}")
    name = re.search(r'^name = "(.*)"', manifest, re.MULTILINE)[1]
    return str(Path(os.environ.get("CARGO_TARGET_DIR", folder / "target")) / "debug" / name)


class Server:
    def __init__(self, binary, directory):
        self.log = open(Path(directory) / "log", "w")
        command = [binary, "serve", "--dev", "--listen", "127.0.0.1:0", "--data", str(Path(directory) / "data")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.address = self.key = None
        while self.address is None or self.key is None:
            line = self.process.stdout.readline()
            if not line:
                sys.exit(f"the server did not start; its log is {self.log.name}")
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.address = self.address or found.group()
            if found := re.search(r"pr_live_[\w-]+", line):
                self.key = self.key or found.group()

    def call(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets. Below /broken it fails until it is mended."""

    daemon_threads = True

    def __init__(self):
        self.got, self.mended = [], False
        self.changed = threading.Condition()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def wait(self, path, count):
        """What came at a path, as soon as there are so many."""
        at = lambda: [one for one in self.got if one[0] == path]
        with self.changed:
            came = self.changed.wait_for(lambda: len(at()) >= count, PATIENCE)
            assert came, f"{len(at())} of {count} came at {path}"
            return at()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        with server.changed:
            failing = self.path.startswith("/broken") and not server.mended
            server.got.append((self.path, dict(self.headers), body))
            server.changed.notify_all()
        answer = b"out of order" if failing else b"thank you"
        self.send_response(500 if failing else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments):
        pass
