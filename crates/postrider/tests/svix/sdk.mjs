// Svix's SDK for JavaScript against a running server: the story of one customer, and its verifier.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { SVIX_MODULES, SVIX_SERVER, SVIX_TOKEN, RECEIVER } = process.env;
const { Svix, Webhook } = createRequire(`${SVIX_MODULES}/`)("svix");
const svix = new Svix(SVIX_TOKEN, { serverUrl: SVIX_SERVER });

const app = await svix.application.getOrCreate({ name: "Node", uid: "node" });
assert.equal((await svix.application.getOrCreate({ name: "Node", uid: "node" })).id, app.id);
await assert.rejects(svix.application.create({ name: "Node", uid: "node" }), { code: 409 });

await svix.eventType.create({ name: "user.signup", description: "Somebody signed up" });
assert.deepEqual((await svix.eventType.list()).data.map((type) => type.name), ["user.signup"]);

const endpoint = await svix.endpoint.create("node", { url: RECEIVER, uid: "hook", filterTypes: ["user.signup"], rateLimit: 50 });
assert.deepEqual(endpoint.filterTypes, ["user.signup"]);
assert.equal(endpoint.rateLimit, 50);
// What a form sends that has nothing chosen: all types.
const all = await svix.endpoint.update("node", "hook", { url: RECEIVER, uid: "hook", filterTypes: [] });
assert.equal(all.filterTypes ?? undefined, undefined);
const upserted = await svix.endpoint.update("node", "second", { url: `${RECEIVER}/second`, uid: "second", channels: ["other"] });
assert.equal(upserted.uid, "second");

const { key } = await svix.endpoint.getSecret("node", "hook");
assert.match(key, /^whsec_/);
const message = await svix.message.create("node", { eventType: "user.signup", payload: { n: 1 } });
const signed = new Webhook(key);
assert.match(signed.sign(message.id, new Date(), '{"n":1}'), /^v1,/);

async function eventually(ask) {
    for (let tries = 0; tries < 600; tries += 1) {
        const found = await ask();
        if (found) return found;
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error("it did not happen");
}

const [attempt] = await eventually(async () => {
    const { data } = await svix.messageAttempt.listByMsg("node", message.id);
    return data.length > 0 && data;
});
assert.equal(attempt.responseStatusCode, 200);
assert.equal(attempt.endpointId, endpoint.id);
const byEndpoint = await svix.messageAttempt.listByEndpoint("node", "hook", { eventTypes: ["user.signup"], limit: 1 });
assert.equal(byEndpoint.data.length, 1);
assert.deepEqual((await svix.messageAttempt.listByEndpoint("node", "hook", { eventTypes: ["user.gone"] })).data, []);
await svix.messageAttempt.resend("node", message.id, "hook");
assert.equal((await svix.message.list("node", { limit: 1 })).data[0].id, message.id);

const { url, token } = await svix.authentication.appPortalAccess("node", {});
assert.match(url, /^http/);
assert.equal((await new Svix(token, { serverUrl: SVIX_SERVER }).endpoint.list("node")).data.length, 2);

await assert.rejects(svix.endpoint.get("node", "ep_nobody"), { code: 404 });
await svix.endpoint.delete("node", "second");
await svix.application.delete("node");
