"""A receiver that verifies as each vendor publishes it, in Python. Its secrets are one JSON argument:
{"vignetim": "...", "simplifytrip": "...", "voucherify": "..."}. Prints its port; GET / counts."""

import asyncio
import datetime
import hashlib
import hmac
import json
import sys

SECRETS = json.loads(sys.argv[1])
COUNTS = {}


def sign(key, message):
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def flatten(value, path, flat):
    under = (lambda name: name) if path == "" else (lambda name: f"{path}_{name}")
    if value is None:
        flat[path] = ""
    elif isinstance(value, bool):
        flat[path] = "true" if value else "false"
    elif isinstance(value, dict):
        for key, child in value.items():
            flatten(child, under(key), flat)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            flatten(child, under(str(index)), flat)
    else:
        flat[path] = str(value)
    return flat


def without_whitespace(text):
    """What the vendor's Java sample does: whitespace outside of strings goes."""
    out, inside, escaped = [], False, False
    for char in text:
        if inside:
            out.append(char)
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                inside = False
        elif not char.isspace():
            out.append(char)
            inside = char == '"'
    return "".join(out)


def vignetim(body, headers):
    return hmac.compare_digest(sign(SECRETS["vignetim"], body), headers["x-webhook-signature"])


def simplifytrip(body, headers):
    # Numbers stay the text that was sent: Python would print some of them in another way.
    payload = json.loads(body, parse_float=str, parse_int=str)
    flat = flatten(payload, "", {})
    keys = sorted(flat, key=lambda key: key.encode("utf-16-be"))
    text = "&".join(f"{key}={flat[key]}" for key in keys)
    sent = datetime.datetime.fromisoformat(payload["sentDate"].replace("Z", "+00:00"))
    age = abs(datetime.datetime.now(datetime.timezone.utc) - sent)
    expected = sign(SECRETS["simplifytrip"], text.encode())
    fresh = age <= datetime.timedelta(hours=24)
    return fresh and hmac.compare_digest(expected, headers["x-simplify-trip-signature"])


def voucherify(body, headers):
    expected = sign(SECRETS["voucherify"], without_whitespace(body.decode()).encode())
    return hmac.compare_digest(expected, headers["x-voucherify-signature"])


VERIFY = {"vignetim": vignetim, "simplifytrip": simplifytrip, "voucherify": voucherify}


async def serve(reader, writer):
    """One connection, kept open: a request after the other."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            status, answer = 200, b""
            if method == "GET":
                answer = json.dumps(COUNTS).encode()
            elif not accept(path[1:], body, headers):
                status = 401
            line = f"HTTP/1.1 {status} -\r\nContent-Length: {len(answer)}\r\n\r\n"
            writer.write(line.encode() + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def accept(system, body, headers):
    why = None
    try:
        good = VERIFY[system](body, headers)
    except Exception as error:  # told to the test, which fails with it
        good, why = False, repr(error)
    count = COUNTS.setdefault(system, {"good": 0, "bad": 0, "first": None})
    count["good" if good else "bad"] += 1
    if not good and count["first"] is None:
        count["first"] = why or body.decode("utf-8", "replace")
    return good


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
