"""How long each page takes on a server that has deliveries: median and slowest of 21 looks, and its size.

    pages_speed.py URL KEY
"""

import http.client
import json
import statistics
import sys
import time
import urllib.parse

LOOKS = 21


def main(url, key):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)

    def ask(method, path, headers, body=None):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer, answer.read()

    def api(path):
        answer, body = ask("GET", path, {"authorization": f"Bearer {key}"})
        assert answer.status == 200, (path, answer.status, body)
        return json.loads(body)

    form = {"content-type": "application/x-www-form-urlencoded"}
    answer, _ = ask("POST", "/sign-in", form, urllib.parse.urlencode({"key": key}))
    cookie = answer.getheader("set-cookie").split(";")[0]
    delivery = api("/v1/deliveries?limit=1")["data"][0]
    tenant, endpoint = delivery["tenant"], delivery["endpoint"]
    application = api(f"/v1/tenants/{tenant}")["application"]
    totals = api(f"/v1/tenants/{tenant}/statistics")["totals"]
    print(f"pages of a tenant with {totals['total']:,} deliveries")
    pages = {
        "overview": "/",
        "application": f"/applications/{application}",
        "tenant": f"/tenants/{tenant}",
        "endpoint": f"/endpoints/{endpoint}",
        "deliveries": f"/deliveries?tenant={tenant}",
        "deliveries that failed": f"/deliveries?tenant={tenant}&status=failed",
        "newer ones of a list": f"/deliveries/news?tenant={tenant}&newest={delivery['id']}",
        "delivery": f"/deliveries/{delivery['id']}",
        "events": f"/tenants/{tenant}/events",
        "event": f"/events/{delivery['event']}",
        "statistics of a day": f"/tenants/{tenant}/statistics",
        "statistics of a month": f"/tenants/{tenant}/statistics?range=30d",
        "replay with its preview": f"/tenants/{tenant}/replays?status=delivered&preview=1",
        "send outs": f"/tenants/{tenant}/send-outs",
        "settings": f"/tenants/{tenant}/settings",
        "audit log": "/audit",
        "users": "/users",
        "keys": "/keys",
        "system": "/system",
        "tasks": "/tasks",
        "notices": "/notices",
        "endpoints found": f"/tenants/{tenant}?find=nothing-has-this",
        "verify": f"/tenants/{tenant}/verify",
    }
    for name, path in pages.items():
        took = []
        for _ in range(LOOKS):
            begun = time.perf_counter()
            answer, body = ask("GET", path, {"cookie": cookie, "accept": "text/html"})
            took.append((time.perf_counter() - begun) * 1e3)
            assert answer.status == 200, (path, answer.status)
        print(f"{name:26} {statistics.median(took):5.1f} ms, {max(took):5.1f} ms at most, {len(body) / 1024:5.1f} KiB")


main(*sys.argv[1:])
