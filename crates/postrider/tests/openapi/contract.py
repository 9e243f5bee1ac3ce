"""Holds a running server against its own OpenAPI document: hostile and clumsy requests of every operation, made from
the document. No answer may be a 5xx, and none may have a status, a content type or a body that the document does not
have.

    contract.py <postrider> <st>      the binary, and schemathesis' program
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from served import Server

# Requests of an operation that are made up beside those that cover its parameters one by one.
MADE_UP = 15
# The same requests each time: a failure can be looked at again.
SEED = 1
# All of them but one: what a schema allows may still be refused, a URL that leads nowhere or a name that is taken.
CHECKS = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]


def furnish(server):
    """What the operations are called with; what deletes or locks out has something of its own."""
    call = server.call

    def application(name, profile="standard"):
        return call("POST", "/v1/applications", {"name": name, "profile": profile})["id"]

    def tenant(of, name):
        return call("POST", f"/v1/applications/{of}/tenants", {"name": name})["id"]

    app, doomed_app, vouchers = application("shop"), application("doomed"), application("vouchers", "voucherify")
    ada, doomed = tenant(app, "Ada Ltd"), tenant(app, "Doomed Ltd")
    project = tenant(vouchers, "Project")
    # Nobody listens there: every attempt fails at once.
    endpoint = call("POST", f"/v1/tenants/{ada}/endpoints", {"url": "http://127.0.0.1:9/"})["id"]
    distribution = call(
        "POST",
        f"/v1/tenants/{project}/distributions",
        {
            "name": "d",
            "eventName": "d",
            "url": "http://127.0.0.1:9/",
            "events": ["customer.rewarded"],
        },
    )["id"]
    event = call("POST", f"/v1/tenants/{ada}/events", {"type": "order.completed", "data": {"orderId": "1"}})["id"]
    deliveries = []
    deadline = time.monotonic() + 30
    while not deliveries and time.monotonic() < deadline:
        deliveries = call("GET", f"/v1/deliveries?event={event}")["data"]
    replay = call("POST", f"/v1/tenants/{ada}/replays", {"status": "delivered"})["id"]
    deletion = call("DELETE", f"/v1/tenants/{tenant(app, 'Gone Ltd')}")["id"]

    def key(name):
        return call("POST", "/v1/keys", {"name": name, "application": app})["id"]

    everywhere = {
        "application": app,
        "tenant": ada,
        "endpoint": endpoint,
        "distribution": distribution,
        "event": event,
        "delivery": deliveries[0]["id"],
        "replay": replay,
        "deletion": deletion,
        "key": key("changed"),
    }
    of_operation = {
        "deleteApplication": {"application": doomed_app},
        "deleteTenant": {"tenant": doomed},
        "deleteKey": {"key": key("deleted")},
        # One that there is not: what is made up for one of two names in a path is asked with ours, and would be taken for
        # accepted.
        "deleteAttemptContent": {"delivery": deliveries[0]["id"], "attempt": "999"},
        "createDistribution": {"tenant": project},
        "listDistributions": {"tenant": project},
    }
    return everywhere, of_operation


def configuration(everywhere, of_operation):
    def parameters(names):
        pairs = ", ".join(f'"path.{name}" = "{value}"' for name, value in names.items())
        return f"parameters = {{ {pairs} }}\n"

    text = parameters(everywhere)
    for operation, names in of_operation.items():
        text += f'[[operations]]\ninclude-operation-id = "{operation}"\n' + parameters(names)
    return text


def broken(document):
    """The document with two mistakes: a type that is another, and a status that is missing."""
    document["components"]["schemas"]["TenantView"]["properties"]["name"] = {"type": "integer"}
    del document["paths"]["/v1/events/{event}"]["get"]["responses"]["200"]
    return document


def run(schemathesis, server, directory, document, *arguments):
    command = [schemathesis, "--config-file", str(Path(directory) / "schemathesis.toml"), "run", str(document)]
    command += ["--url", server.address, "--header", f"Authorization: Bearer {server.key}", "--request-timeout", "20"]
    command += ["--seed", str(SEED), "--phases", "examples,coverage,fuzzing", "--no-shrink", "--suppress-health-check", "all"]
    command += ["--warnings", "off", "--no-color", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def main():
    binary, schemathesis = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        server = Server(binary, directory)
        try:
            config = configuration(*furnish(server))
            (Path(directory) / "schemathesis.toml").write_text(config)
            document = server.call("GET", "/v1/openapi.json")
            whole, wrong = Path(directory) / "openapi.json", Path(directory) / "broken.json"
            whole.write_text(json.dumps(document))
            wrong.write_text(json.dumps(broken(document)))
            few = ["--include-operation-id", "getTenant", "--include-operation-id", "getEvent", "--max-examples", "1"]
            control = run(schemathesis, server, directory, wrong, *few)
            for found in ("Response violates schema", "Undocumented status code"):
                if found not in control.stdout:
                    sys.exit(f"the control did not find {found!r}:\n{control.stdout}{control.stderr}")
            result = run(schemathesis, server, directory, whole, *CHECKS, "--max-examples", str(MADE_UP))
            if result.returncode != 0:
                sys.exit(result.stdout + result.stderr)
            if server.call("GET", "/ready")["status"] != "ready":
                sys.exit("the server is not ready any more")
            print(re.search(r"\d+ generated, \d+ passed.*", result.stdout).group())
        finally:
            server.stop()


if __name__ == "__main__":
    main()
