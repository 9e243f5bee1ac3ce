// A client for TypeScript, made by openapi-typescript from the server's own document, against that server: it must
// compile as it stands, and do what it says.

import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import createClient from "openapi-fetch";
import type { paths } from "./api";

const { POSTRIDER_URL, POSTRIDER_KEY, RECEIVER } = process.env as Record<string, string>;

const client = createClient<paths>({
  baseUrl: POSTRIDER_URL,
  headers: { Authorization: `Bearer ${POSTRIDER_KEY}` },
});

function good<T>({ data, error }: { data?: T; error?: { detail: string } }): T {
  if (data === undefined) throw new Error(error?.detail ?? "no answer");
  return data;
}

async function story(): Promise<void> {
  const shop = good(await client.POST("/v1/applications", { body: { name: "shop for node" } }));
  const tenant = good(
    await client.POST("/v1/applications/{application}/tenants", {
      params: { path: { application: shop.id } },
      body: { name: "Ada Ltd", metadata: { plan: "gold" } },
    }),
  );
  assert.equal(tenant.metadata["plan"], "gold");
  const of = { path: { tenant: tenant.id } };
  const endpoint = good(
    await client.POST("/v1/tenants/{tenant}/endpoints", {
      params: of,
      body: { url: RECEIVER!, events: ["order.completed"], filter: { "data.amount": { $gte: 100 } } },
    }),
  );
  assert.ok(endpoint.secret?.startsWith("whsec_"), "shown once");

  const publish = () =>
    client.POST("/v1/tenants/{tenant}/events", {
      params: { ...of, header: { "Idempotency-Key": "order-1" } },
      body: { type: "order.completed", data: { amount: 120 } },
    });
  const [first, again] = [good(await publish()), good(await publish())];
  assert.deepEqual([first.deliveries, again.id], [1, first.id]);

  for (let tries = 0; ; tries++) {
    const found = good(await client.GET("/v1/deliveries", { params: { query: { tenant: tenant.id } } }));
    if (found.data[0]?.status === "delivered") break;
    assert.ok(tries < 600, "it is delivered");
    await setTimeout(50);
  }

  const refused = await client.POST("/v1/tenants/{tenant}/events", { params: of, body: { type: "no type", data: 1 } });
  assert.equal(refused.response.status, 400);
  assert.equal(refused.error?.code, "validation_failed");
  assert.equal(refused.error?.field, "type");
}

story().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
