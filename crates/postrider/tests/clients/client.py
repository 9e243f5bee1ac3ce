"""Clients that the usual generators make from the server's own document, against that server: for Python by
openapi-python-client, for TypeScript by openapi-typescript.

    client.py <postrider> <openapi-python-client> <node modules>
"""

import datetime
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from served import PATIENCE, Receiver, Server


def generated(program, address, directory):
    """The client, made from what the server says of itself."""
    command = [program, "generate", "--url", f"{address}/v1/openapi.json", "--meta", "none"]
    made = subprocess.run([*command, "--output-path", str(Path(directory) / "hooks")], capture_output=True, text=True)
    # That a formatter is missing is told, and nothing else may be.
    told = [line for line in (made.stdout + made.stderr).splitlines() if "WARNING" in line or "unable" in line.lower()]
    if made.returncode or told:
        sys.exit(f"no client was made:\n{made.stdout}{made.stderr}")
    sys.path.insert(0, directory)
    return importlib.import_module("hooks")


def story(hooks, server, receiver):
    api = lambda name: importlib.import_module(f"hooks.api.{name}")
    models = importlib.import_module("hooks.models")
    client = hooks.AuthenticatedClient(base_url=server.address, token=server.key, raise_on_unexpected_status=True)

    shop = api("applications.create_application").sync(client=client, body=models.NewApplication(name="shop"))
    ada = api("tenants.create_tenant").sync(shop.id, client=client, body=models.NewTenant(name="Ada Ltd"))
    big = models.NewEndpointFilterType0.from_dict({"data.amount": {"$gte": 100}})
    new = models.NewEndpoint(url=receiver.url("/hook"), events=["order.completed"], filter_=big)
    endpoint = api("endpoints.create_endpoint").sync(ada.id, client=client, body=new)
    assert endpoint.filter_.to_dict() == {"data.amount": {"$gte": 100}}, endpoint
    assert endpoint.secret.startswith("whsec_"), "shown once"

    publish = api("events.publish_event").sync
    event = models.NewEvent(type_="order.completed", data={"amount": 120})
    first = publish(ada.id, client=client, body=event, idempotency_key="order-1")
    again = publish(ada.id, client=client, body=event, idempotency_key="order-1")
    assert (first.deliveries, again.id) == (1, first.id), (first, again)
    ((_, _, body),) = receiver.wait("/hook", 1)
    assert json.loads(body)["data"] == {"amount": 120}, body

    listed = api("deliveries.list_deliveries").sync
    until = time.monotonic() + PATIENCE
    while (found := listed(client=client, tenant=ada.id).data)[0].status != "delivered":
        assert time.monotonic() < until, found
        time.sleep(0.05)
    assert isinstance(found[0].created_at, datetime.datetime), "times are times"
    shown = api("deliveries.list_attempts").sync(found[0].id, client=client).data[0]
    assert shown.status_code == 200 and ["content-type", "application/json"] in [
        [name.lower(), value] for name, value in shown.request_headers
    ], shown

    refused = publish(ada.id, client=client, body=models.NewEvent(type_="no type", data=1))
    assert isinstance(refused, models.ProblemView), refused
    assert (refused.code, refused.field) == (models.ErrorCode.VALIDATION_FAILED, "type"), refused


# As strict as anybody compiles.
STRICT = ["--strict", "--noUncheckedIndexedAccess", "--target", "es2022", "--module", "node16", "--skipLibCheck"]


def in_typescript(server, receiver, node):
    """Compiles the script with the types made from the document, and runs it."""
    node = Path(node)
    tool = lambda name: str(node / "node_modules/.bin" / name)
    document = f"{server.address}/v1/openapi.json"
    script = node / "client.ts"
    shutil.copy(Path(__file__).with_name("client.ts"), script)
    make = [tool("openapi-typescript"), document, "--default-non-nullable=false", "--output", str(node / "api.ts")]
    environment = {
        "POSTRIDER_URL": server.address,
        "POSTRIDER_KEY": server.key,
        "RECEIVER": receiver.url("/node"),
    }
    for command in [make, [tool("tsc"), *STRICT, str(script)], ["node", str(script.with_suffix(".js"))]]:
        ran = subprocess.run(command, capture_output=True, text=True, cwd=node, env=os.environ | environment)
        if ran.returncode:
            sys.exit(f"{command[0]} failed:\n{ran.stdout}{ran.stderr}")
    receiver.wait("/node", 1)


def main(binary, program, node):
    with tempfile.TemporaryDirectory() as directory:
        server, receiver = Server(binary, directory), Receiver()
        try:
            story(generated(program, server.address, directory), server, receiver)
            in_typescript(server, receiver, node)
        finally:
            server.stop()
    print("the clients made for Python and TypeScript publish, read and are refused")


main(*sys.argv[1:])
