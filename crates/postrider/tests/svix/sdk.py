"""Svix's own SDKs against a running server: what they send, what they make of the answers, and what their verifier says
of what a receiver got.

    sdk.py <postrider> <node modules> <directory for what Rust builds>     in an environment that has the package svix
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

from svix.api import (
    ApplicationIn,
    ApplicationListOptions,
    ApplicationPatch,
    AppPortalAccessIn,
    EndpointHeadersIn,
    EndpointHeadersPatchIn,
    EndpointIn,
    EndpointListOptions,
    EndpointPatch,
    EndpointSecretRotateIn,
    EventExampleIn,
    EventTypeIn,
    EventTypeListOptions,
    EventTypePatch,
    MessageAttemptListByEndpointOptions,
    MessageAttemptListByMsgOptions,
    MessageCreateOptions,
    MessageIn,
    MessageGetOptions,
    MessageListOptions,
    RecoverIn,
    Svix,
    SvixOptions,
)
from svix.api.errors.http_error import HttpError
from svix.api.errors.http_validation_error import HTTPValidationError
from svix.webhooks import Webhook, WebhookVerificationError

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))
from served import PATIENCE, Receiver, cargo
from served import Server as Served


class Server(Served):
    def environment(self, name, profile="svix"):
        """The token of an environment of its own."""
        application = self.call("POST", "/v1/applications", {"name": name, "profile": profile})["id"]
        return self.call("POST", "/v1/keys", {"name": name, "application": application})["key"]

    def client(self, token):
        return Svix(token, SvixOptions(server_url=self.address, retry_schedule=[]))


def same(what, is_so, should):
    if is_so != should:
        sys.exit(f"{what}: {is_so!r} instead of {should!r}")


def refused(what, status, code, act):
    """An error that the SDK understands, with its status and code."""
    try:
        act()
    except HttpError as error:
        same(what, (error.status_code, error.code), (status, code))
    except HTTPValidationError as error:
        same(what, (error.status_code, "invalid"), (status, code))
        same(f"{what}: where", error.detail[0].loc[0], "body")
    else:
        sys.exit(f"{what}: it was not refused")


def eventually(what, ask):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := ask():
            return found
        time.sleep(0.05)
    sys.exit(f"{what}: it did not happen within {PATIENCE} s")


def all_of(list_some, **options):
    """All rows of a list, by its iterators."""
    rows, iterator = [], None
    while True:
        page = list_some(iterator, **options)
        rows += page.data
        if page.done:
            return rows
        iterator = page.iterator


def applications(svix, stranger):
    api = svix.application
    ada = api.create(ApplicationIn(name="Ada Ltd", uid="ada", metadata={"plan": "gold"}))
    same("an id", ada.id[:4], "app_")
    refused("a uid that is taken", 409, "conflict", lambda: api.create(ApplicationIn(name="Other", uid="ada")))
    same("get or create", api.get_or_create(ApplicationIn(name="Other", uid="ada")).id, ada.id)
    same("by its uid", api.get("ada"), api.get(ada.id))
    same("metadata", api.get("ada").metadata, {"plan": "gold"})
    for number in range(5):
        api.create(ApplicationIn(name=f"Customer {number}", uid=f"customer-{number}"))

    def some(iterator, order=None):
        return api.list(ApplicationListOptions(limit=2, iterator=iterator, order=order))

    ascending = [app.uid for app in all_of(some, order="ascending")]
    same("in their order", ascending, ["ada"] + [f"customer-{number}" for number in range(5)])
    same("as they come", [app.uid for app in all_of(some)], ascending)
    same("the other way", [app.uid for app in all_of(some, order="descending")], ascending[::-1])
    patched = api.patch("customer-0", ApplicationPatch(name="New name"))
    same("what a patch keeps", (patched.name, patched.uid), ("New name", "customer-0"))
    refused("a uid with blanks", 422, "invalid", lambda: api.create(ApplicationIn(name="x", uid="a b")))
    refused("an application that is not there", 404, "not_found", lambda: api.get("nobody"))
    refused("another environment's, by id", 404, "not_found", lambda: stranger.application.get(ada.id))
    refused("another environment's, by uid", 404, "not_found", lambda: stranger.application.get("ada"))
    api.delete("customer-4")
    refused("what was deleted", 404, "not_found", lambda: api.get("customer-4"))
    same("a uid is free again", api.create(ApplicationIn(name="Back", uid="customer-4")).uid, "customer-4")
    return ada


def event_types(svix):
    api = svix.event_type
    schema = {"1": {"type": "object", "examples": [{"amount": 12}]}}
    made = api.create(EventTypeIn(name="invoice.paid", description="An invoice was paid", schemas=schema))
    same("its schemas", made.schemas, schema)
    refused("twice", 409, "event_type_exists", lambda: api.create(EventTypeIn(name="invoice.paid", description="Again")))
    api.create(EventTypeIn(name="invoice.sent", description="An invoice was sent", group_name="invoice"))
    patched = api.patch("invoice.sent", EventTypePatch(description="It was sent"))
    same("what a patch keeps", (patched.description, patched.group_name), ("It was sent", "invoice"))

    def names(**options):
        some = lambda iterator: api.list(EventTypeListOptions(limit=1, iterator=iterator, **options))
        return [one.name for one in all_of(some)]

    same("all", names(), ["invoice.paid", "invoice.sent"])
    api.delete("invoice.sent")
    same("archived", (names(), names(include_archived=True)), (["invoice.paid"], ["invoice.paid", "invoice.sent"]))
    api.create(EventTypeIn(name="invoice.sent", description="Back again"))
    same("back again", api.get("invoice.sent").archived, False)


def endpoints(svix, receiver):
    api = svix.endpoint
    made = api.create(
        "ada",
        EndpointIn(
            url=receiver.url("/hook"),
            uid="main",
            description="All invoices",
            metadata={"team": "billing"},
            headers={"x-shop": "7"},
            event_types=["invoice.paid", "invoice.sent"],
        ),
    )
    same("an id", made.id[:3], "ep_")
    same("by its uid", api.get("ada", "main"), api.get("ada", made.id))
    same("what it gets", sorted(made.event_types), ["invoice.paid", "invoice.sent"])
    same("metadata", made.metadata, {"team": "billing"})
    other = EndpointIn(url=receiver.url("/eu"), channels=["eu"], event_types=[])
    europe = api.create("ada", other)
    same("all types", (europe.event_types, europe.channels), (None, ["eu"]))
    refused("a uid that is taken", 409, "conflict", lambda: api.create("ada", EndpointIn(url=receiver.url("/"), uid="main")))
    refused("no URL", 422, "invalid", lambda: api.create("ada", EndpointIn(url="nowhere")))

    def some(iterator, order):
        return api.list("ada", EndpointListOptions(limit=1, iterator=iterator, order=order))

    same("in their order", [one.id for one in all_of(some, order="ascending")], [made.id, europe.id])
    same("the other way", [one.id for one in all_of(some, order="descending")], [europe.id, made.id])
    api.patch_headers("ada", "main", EndpointHeadersPatchIn(headers={"x-more": "8"}))
    same("headers", sorted(api.get_headers("ada", "main").sensitive), ["x-more", "x-shop"])
    api.set_headers("ada", "main", EndpointHeadersIn(headers={"x-shop": "9"}))
    same("headers anew", api.get_headers("ada", "main").sensitive, ["x-shop"])
    patched = api.patch("ada", "main", EndpointPatch(description="Invoices"))
    same("what a patch keeps", (patched.description, patched.uid, patched.url), ("Invoices", "main", receiver.url("/hook")))
    return made, europe


def messages(svix, receiver, endpoint):
    api = svix.message
    secret = svix.endpoint.get_secret("ada", "main").key
    payload = {"amount": 12.5, "customer": "Zoë", "lines": [1, 2, 3]}
    message = MessageIn(event_type="invoice.paid", event_id="inv-1", payload=payload, channels=["us"], tags=["first"])
    made = api.create("ada", message, MessageCreateOptions(idempotency_key="once"))
    same("an id", made.id[:4], "msg_")
    ((_, headers, body),) = receiver.wait("/hook", 1)
    Webhook(secret).verify(body, headers)
    same("what came", json.loads(body), payload)
    same("whose it is", (headers["svix-id"], headers["x-shop"]), (made.id, "9"))
    try:
        Webhook(secret).verify(body + b" ", headers)
        sys.exit("the verifier took a body that was changed")
    except WebhookVerificationError:
        pass
    again = api.create("ada", message, MessageCreateOptions(idempotency_key="once"))
    same("a retry", again.id, made.id)
    refused("an eventId that was used", 409, "conflict", lambda: api.create("ada", message))
    same("by its eventId", api.get("ada", "inv-1"), api.get("ada", made.id))
    whole = MessageGetOptions(with_content=True)
    same("as it was sent", api.get("ada", made.id, whole).payload, payload)
    svix.endpoint.rotate_secret("ada", "main", EndpointSecretRotateIn())
    fresh = svix.endpoint.get_secret("ada", "main").key
    api.create("ada", MessageIn(event_type="invoice.sent", payload={"n": 2}, channels=["eu"]))
    headers, body = receiver.wait("/hook", 2)[1][1:]
    for key in (secret, fresh):
        Webhook(key).verify(body, headers)
    (europe,) = receiver.wait("/eu", 1)
    same("one channel's only", json.loads(europe[2]), {"n": 2})
    for number in range(3, 8):
        api.create("ada", MessageIn(event_type="invoice.paid", payload={"n": number}))
    receiver.wait("/hook", 7)

    def some(iterator, with_content=True, **options):
        return api.list("ada", MessageListOptions(limit=2, iterator=iterator, with_content=with_content, **options))

    same("all", [one.payload.get("n", 1) for one in all_of(some)], [7, 6, 5, 4, 3, 2, 1])
    same("of a type", [one.payload["n"] for one in all_of(some, event_types=["invoice.sent"])], [2])
    same("of a channel", [one.event_id for one in all_of(some, channel="us")], ["inv-1"])
    same("of a tag", [one.event_id for one in all_of(some, tag="first")], ["inv-1"])
    same("without content", {str(one.payload) for one in all_of(some, with_content=False)}, {"{}"})
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    same("after now", all_of(some, after=later), [])
    same("before", len(all_of(some, before=later)), 7)
    refused("no object", 422, "invalid", lambda: raw_message(svix, {"eventType": "a", "payload": [1]}))
    refused("no type", 422, "invalid", lambda: raw_message(svix, {"payload": {}}))
    return made


def raw_message(svix, body):
    return svix.message._request_sync(
        method="post", path="/api/v1/app/{app_id}/msg", path_params={"app_id": "ada"}, json_body=json.dumps(body)
    )


def attempts(svix, receiver, message):
    api = svix.message_attempt
    whole = MessageAttemptListByMsgOptions(with_content=True)
    (one,) = eventually("an attempt", lambda: api.list_by_msg("ada", message.id, whole).data)
    same("how it ended", (one.status, one.status_text, one.response_status_code, one.response), (0, "success", 200, "thank you"))
    same("which", api.get("ada", message.id, one.id), one)
    with_msg = api.list_by_endpoint("ada", "main", MessageAttemptListByEndpointOptions(with_msg=True)).data[0]
    same("with its message", with_msg.msg.id, with_msg.msg_id)

    def some(iterator, **options):
        return api.list_by_endpoint("ada", "main", MessageAttemptListByEndpointOptions(limit=2, iterator=iterator, **options))

    seven = eventually("seven attempts", lambda: (rows := all_of(some)) and len(rows) == 7 and rows)
    same("each once", len({one.id for one in seven}), 7)
    same("none failed", all_of(some, status=2), [])
    same("of a class", len(all_of(some, status_code_class=200)), 7)
    attempted = api.list_attempted_messages("ada", "main").data
    same("messages of an endpoint", (len(attempted), {one.status for one in attempted}), (7, {0}))
    (destination,) = api.list_attempted_destinations("ada", message.id).data
    same("endpoints of a message", (destination.uid, destination.status), ("main", 0))


def failures(svix, receiver):
    api, message = svix.endpoint, svix.message
    api.create("ada", EndpointIn(url=receiver.url("/broken"), uid="broken", channels=["broken"]))
    made = message.create("ada", MessageIn(event_type="invoice.paid", payload={"n": 8}, channels=["broken"]))
    receiver.wait("/broken", 1)
    whole = MessageAttemptListByEndpointOptions(with_content=True)
    ask = lambda: svix.message_attempt.list_by_endpoint("ada", "broken", whole).data
    failed = eventually("the failure", ask)[0]
    same("how it failed", (failed.status, failed.response_status_code, failed.response), (2, 500, "out of order"))
    (waiting,) = svix.message_attempt.list_attempted_messages("ada", "broken").data
    same("it is tried again", (waiting.status_text, waiting.next_attempt is not None), ("sending", True))
    receiver.mended = True
    svix.message_attempt.resend("ada", made.id, "broken")
    receiver.wait("/broken", 2)
    ask = lambda: (stats := api.get_stats("ada", "broken")).success == 1 and stats
    same("counted", eventually("the counts", ask).fail, 1)
    # It was not there when the message came.
    api.create("ada", EndpointIn(url=receiver.url("/late"), uid="late"))
    svix.message_attempt.resend("ada", made.id, "late")
    receiver.wait("/late", 1)
    since = datetime.now(timezone.utc) - timedelta(hours=1)
    task = api.recover("ada", "broken", RecoverIn(since=since))
    same("a task", task.task, "endpoint.recover")
    sent = api.send_example("ada", "late", EventExampleIn(event_type="invoice.paid"))
    same("the example", json.loads(receiver.wait("/late", 2)[1][2]), {"amount": 12})
    whole = MessageGetOptions(with_content=True)
    same("a message", message.get("ada", sent.id, whole).payload, {"amount": 12})
    refused("no example", 422, "invalid", lambda: api.send_example("ada", "late", EventExampleIn(event_type="invoice.sent")))
    api.patch("ada", "late", EndpointPatch(disabled=True))
    same("disabled", api.get("ada", "late").disabled, True)
    api.delete("ada", "late")
    refused("what was deleted", 404, "not_found", lambda: api.get("ada", "late"))


def portal(server, svix, ada):
    access = svix.authentication.app_portal_access("ada", AppPortalAccessIn())
    page = urllib.request.urlopen(access.url).read().decode()
    if "<html" not in page:
        sys.exit("the portal's link does not open a page")
    customer = server.client(access.token)
    same("its own endpoints", len(customer.endpoint.list(ada.id).data), 3)
    same("by its uid", customer.application.get("ada").id, ada.id)
    refused("another's", 404, "not_found", lambda: customer.endpoint.list("customer-0"))
    refused("it publishes nothing", 403, "insufficient access", lambda: customer.message.create("ada", MessageIn(event_type="a", payload={})))
    refused("it makes no applications", 403, "insufficient access", lambda: customer.application.create(ApplicationIn(name="x")))
    customer.authentication.logout()
    refused("its token has ended", 401, "authentication_failed", lambda: customer.endpoint.list(ada.id))
    made = svix.authentication.app_portal_access("eve", AppPortalAccessIn(application=ApplicationIn(name="Eve", uid="eve")))
    same("an application on the way", svix.application.get("eve").name, "Eve")
    refused("a token that never was", 401, "authentication_failed", lambda: server.client(made.token + "0").application.get("eve"))


def doors(server, svix):
    refused("no such key", 401, "authentication_failed", lambda: server.client("sk_wrong.eu").application.list())
    refused("the root key", 403, "insufficient access", lambda: server.client(server.key).application.list())
    other = server.client(server.environment("another profile", "standard"))
    refused("another profile's", 403, "insufficient access", lambda: other.application.list())
    same("health", svix.health.get(), None)
    request = urllib.request.Request(server.address + "/api/v1/nowhere")
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        same("no such operation", json.load(error)["code"], "not_found")


CARGO = """[package]
name = "story"
version = "0.1.0"
edition = "2024"

[dependencies]
http = "1"
serde_json = "1"
svix = "=2.9.1"
tokio = { version = "1", features = ["macros", "rt", "time"] }

[workspace]
"""


def in_rust(folder, environment, receiver, request):
    program = cargo(folder, CARGO, Path(__file__).with_name("sdk.rs").read_text())
    ran = subprocess.run([program], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    ((_, headers, body),) = receiver.wait("/rust", 1)
    lines = [ran.stdout.strip(), *(f"{name}: {value}" for name, value in headers.items())]
    request.write_text("\n".join(lines) + "\n\n" + body.decode())
    subprocess.run([program, str(request)], check=True)


def main():
    binary, modules, rust = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        server, receiver = Server(binary, directory), Receiver()
        try:
            token = server.environment("shop")
            svix = server.client(token)
            stranger = server.client(server.environment("another shop"))
            ada = applications(svix, stranger)
            event_types(svix)
            endpoint, _ = endpoints(svix, receiver)
            message = messages(svix, receiver, endpoint)
            attempts(svix, receiver, message)
            failures(svix, receiver)
            portal(server, svix, ada)
            doors(server, svix)
            environment = {**os.environ, "SVIX_MODULES": modules, "SVIX_SERVER": server.address}
            environment |= {"SVIX_TOKEN": server.environment("node"), "RECEIVER": receiver.url("/node")}
            script = Path(__file__).with_name("sdk.mjs")
            subprocess.run(["node", str(script)], check=True, env=environment)
            (_, headers, body), *_ = receiver.wait("/node", 1)
            same("what came for node", json.loads(body), {"n": 1})
            environment |= {"SVIX_TOKEN": server.environment("rust"), "RECEIVER": receiver.url("/rust")}
            in_rust(Path(rust), environment, receiver, Path(directory) / "request")
            print("the SDKs for Python, JavaScript and Rust understand every answer")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
