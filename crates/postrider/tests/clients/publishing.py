"""Runs every program of docs/publishing.md against a server, behind a proxy that loses the first answer, refuses the
second request and cuts the third answer off: the event is accepted once, its id is told, and what is refused for good is not sent again.

    publishing.py <postrider> <directory for what Rust builds>
"""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from served import Receiver, Server, cargo

PAGE = Path(__file__).resolve().parents[4] / "docs/publishing.md"
LANGUAGES = ["curl", "node", "python", "go", "java", "php", "ruby", "rust"]
# The server's own command, which does the same.
COMMAND = "command"
# Building takes longest.
TIMEOUT_SECS = 180
CARGO = """[package]
name = "publish"
version = "0.1.0"
edition = "2024"

[dependencies]
serde_json = "1"
ureq = { version = "3", default-features = false, features = ["json"] }

[workspace]
"""


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream):
        self.upstream, self.seen, self.lock = upstream, {}, threading.Lock()
        super().__init__(("127.0.0.1", 0), Lossy)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, key):
        with self.lock:
            self.seen[key] = self.seen.get(key, 0) + 1
            return self.seen[key]


class Lossy(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        key = self.headers["idempotency-key"] or json.loads(body)["idempotencyKey"]
        number = self.server.count(key)
        loses = key.startswith("lost-")
        if loses and number == 2:
            # As many proxies say it: a time, which these programs need not read.
            return self.answer(503, b"{}", {"retry-after": formatdate(time.time() + 1, usegmt=True)})
        names = ["authorization", "content-type", "idempotency-key"]
        headers = {name: self.headers[name] for name in names if self.headers[name]}
        request = urllib.request.Request(self.server.upstream + self.path, body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            status, text = refused.code, refused.read()
        if loses and number == 1:
            # It is accepted, and nobody hears of it.
            self.close_connection = True
            return self.connection.close()
        if loses and number == 3:
            self.close_connection = True
            return self.answer(status, text, {}, sent=text[:10])
        self.answer(status, text, {})

    def answer(self, status, body, headers, sent=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if sent is None else sent)

    def log_message(self, *arguments):
        pass


def programs():
    page = PAGE.read_text()
    found = dict(re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)\n```\n", page, re.S))
    assert sorted(found) == sorted(LANGUAGES), f"{PAGE} has programs for {sorted(found)}"
    return found


def run(command, directory, environment):
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_SECS, env=os.environ | environment
    )


def built(language, text, directory, rust):
    """The command that runs a program."""
    path = lambda name: directory / name

    def build(command):
        made = run(command, directory, {"GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOFLAGS": ""})
        if made.returncode:
            raise AssertionError(f"the {language} program does not build:\n{made.stderr}")

    match language:
        case "curl":
            path("publish.sh").write_text(text)
            return ["sh", "publish.sh"]
        case "node":
            path("publish.mjs").write_text(text)
            return ["node", "publish.mjs"]
        case "python":
            path("publish.py").write_text(text)
            return [sys.executable, "publish.py"]
        case "go":
            path("publish.go").write_text(text)
            build(["go", "build", "-o", "publish", "publish.go"])
            return ["./publish"]
        case "java":
            path("Publish.java").write_text(text)
            build(["javac", "-encoding", "UTF-8", "Publish.java"])
            return ["java", "Publish"]
        case "php":
            path("publish.php").write_text(text)
            return ["php", "publish.php"]
        case "ruby":
            path("publish.rb").write_text(text)
            return ["ruby", "publish.rb"]
        case "rust":
            return [cargo(rust, CARGO, text)]
        case "command":
            path("publish.sh").write_text(
                f'{text} event publish --tenant "$POSTRIDER_TENANT" "$1" \'{{"orderId":"1"}}\' --idempotency-key "$2" --json'
            )
            return ["sh", "publish.sh"]


def check(language, text, server, proxy, receiver, tenant, rust):
    environment = {
        "POSTRIDER_URL": proxy.url(),
        "POSTRIDER_KEY": server.key,
        "POSTRIDER_TENANT": tenant,
    }
    with tempfile.TemporaryDirectory() as directory:
        command = built(language, text, Path(directory), rust)
        key = f"lost-{language}"
        published = run([*command, f"order.{language}", key], directory, environment)
        assert published.returncode == 0, f"{language}: {published.stderr}"
        events = server.call("GET", f"/v1/tenants/{tenant}/events?type=order.{language}")["data"]
        assert len(events) == 1, f"{language}: {events}"
        told = published.stdout.strip()
        if language in ("curl", COMMAND):
            told = json.loads(told)["id"]
        assert told == events[0]["id"], f"{language}: {published.stdout} instead of {events[0]['id']}"
        assert proxy.seen[key] == 4, f"{language}: {proxy.seen[key]} requests"
        if language == "curl":
            return
        key = f"refused-{language}"
        refused = run([*command, "no type", key], directory, environment)
        assert refused.returncode != 0, f"{language}: what is refused is a failure"
        assert "must be letters" in refused.stderr + refused.stdout, f"{language}: {refused.stderr}"
        assert proxy.seen[key] == 1, f"{language} sends again what is refused for good"


def main(binary, rust):
    with tempfile.TemporaryDirectory() as directory:
        server, receiver = Server(binary, directory), Receiver()
        proxy = Proxy(server.address)
        try:
            shop = server.call("POST", "/v1/applications", {"name": "shop"})["id"]
            tenant = server.call("POST", f"/v1/applications/{shop}/tenants", {"name": "Ada"})["id"]
            server.call("POST", f"/v1/tenants/{tenant}/endpoints", {"url": receiver.url("/hook")})
            rust = Path(rust)
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                given = (server, proxy, receiver, tenant, rust)
                all = programs() | {COMMAND: str(Path(binary).resolve())}
                runs = [pool.submit(check, language, text, *given) for language, text in all.items()]
                wrong = [str(error) for run in runs if (error := run.exception())]
            if wrong:
                sys.exit("\n".join(wrong))
            got = [json.loads(body)["type"] for _, _, body in receiver.wait("/hook", len(all))]
            assert sorted(got) == sorted(f"order.{language}" for language in all), got
        finally:
            server.stop()
    print(f"programs in {', '.join(LANGUAGES)} publish once, whatever is lost on the way")


main(*sys.argv[1:])
