// What a customer of SimplifyTrip and one of Voucherify do on the pages: from a first look, past what failed and why, to
// a delivery that arrived, the log and the notification. Vignetim's is the story of `pages.mjs`.

import { createServer } from "node:http";
import assert from "node:assert/strict";

const LOOKS_MAX = 300;
const BETWEEN_LOOKS = 100;

/** A customer's server: it answers with the status that it is told. */
async function receiver(status) {
  const told = { status, bodies: [] };
  const server = createServer((request, answer) => {
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => {
      told.bodies.push(body);
      answer.writeHead(told.status).end();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  told.url = `http://127.0.0.1:${server.address().port}/hook`;
  told.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return told;
}

const lead = (page) => page.textContent(".lead");
const rail = (page, name) => page.click(`nav a:text-is('${name}')`);

/** Looks at a page again and again until it tells something. */
async function until(page, selector) {
  const path = page.url();
  for (let looks = 0; (await page.locator(selector).count()) === 0; looks += 1) {
    assert.ok(looks < LOOKS_MAX, `${selector} did not come to ${path}`);
    await page.waitForTimeout(BETWEEN_LOOKS);
    await page.goto(path);
  }
}

/** The page of a delivery changes by itself. */
async function delivered(page) {
  await page.waitForFunction(() => document.querySelector(".lead").textContent.startsWith("Delivered"));
}

async function wantsToBeTold(page, center, what) {
  await rail(page, center);
  await page.check(`input[name='${what}.inApp']`);
  await page.click("button:text-is('Save')");
  await page.waitForSelector(".told:has-text('Saved.')");
}

async function customerOf(api, application, name) {
  const known = (await api("GET", "/v1/applications")).data.find((found) => found.name === application);
  const tenant = await api("POST", `/v1/applications/${known.id}/tenants`, { name });
  const link = (await api("POST", `/v1/tenants/${tenant.id}/portal-links`, { name: "ada@example.com" })).url;
  return { tenant: tenant.id, link };
}

/** A key from the product, its webhook, a test, the type's example from the catalogue, what fails, the statistics. */
export async function simplifyTrip({ api, visitor, comeIn, origin }) {
  const { tenant, link } = await customerOf(api, "trips", "Ada’s agency");
  const server = await receiver(400);
  const operator = await visitor();
  await comeIn(operator.page, (await api("POST", "/v1/console-links")).url);
  await operator.page.goto(`${origin}/tenants/${tenant}`);
  await operator.page.click("a:text-is('New key')");
  await operator.page.fill("#name", "agency");
  await operator.page.click("button:text-is('Make the key')");
  assert.match(await operator.page.textContent(".secret"), /Shown once/);
  operator.fine();
  await operator.context.close();

  const { context, page, fine } = await visitor();
  await comeIn(page, link);
  await page.click("main a:text-is('agency')");
  assert.match(await lead(page), /no webhook/);
  await page.fill("#webhook", server.url);
  await page.click("button:text-is('Save')");
  assert.match(await page.textContent(".secret"), /What its webhooks are signed with/);
  await page.click(".lead a");
  await page.click("button:text-is('Send a test')");
  assert.match(await page.textContent(".result"), /did not arrive[^]*400 Bad Request/);
  await wantsToBeTold(page, "Notifications", "webhooks");

  const type = "RETURN_REQUEST_STATUS_CHANGED";
  const key = (await api("GET", `/v1/keys?tenant=${tenant}`)).data[0].publicId;
  await api("POST", `/v1/tenants/${tenant}/events`, { type, key, data: { returnRequestId: "r-1", status: "REQUESTED" } });
  await rail(page, "Home");
  await until(page, "h2:has-text('Failed lately') + .scroll a");
  await page.click("h2:has-text('Failed lately') + .scroll a >> nth=0");
  assert.match(await lead(page), /^Failed[^]*400 Bad Request/);
  const delivery = page.url();

  // The server is mended, which its customer sees with the type's own example before the real one goes out again.
  server.status = 200;
  await rail(page, "Event types");
  await page.click(`summary:has-text('${type}')`);
  await page.click(`button:text-is('Send a test of ${type}')`);
  assert.match(await page.textContent(".result h2"), /^RETURN_REQUEST_STATUS_CHANGED to .* arrived$/);
  await page.goto(delivery);
  await page.click("button:text-is('Send again')");
  await delivered(page);
  assert.match(server.bodies.at(-1), /r-1/);

  await rail(page, "Webhook statistics");
  await page.click("a[href*='status=delivered'] >> nth=0");
  assert.match(await lead(page), /^1 delivery/);
  await rail(page, "Notifications");
  assert.match(await page.textContent("tbody"), /RETURN_REQUEST_STATUS_CHANGED failed after 1 attempt/);
  await page.click("button:text-is('Mark all as read')");
  await page.waitForSelector(".told:has-text('Marked as read.')");
  fine();
  await context.close();
  server.close();
}

/** A distribution designed by its preview, the pause of a dead one, what it missed, the log with its data, the secret. */
export async function voucherify({ api, visitor, comeIn }) {
  const { tenant, link } = await customerOf(api, "vouchers", "Ada’s shops");
  const server = await receiver(410);
  const { context, page, fine } = await visitor();
  page.on("dialog", (dialog) => dialog.accept());
  await comeIn(page, link);
  await wantsToBeTold(page, "Notification center", "distributions");
  await rail(page, "Home");
  await page.click("a:text-is('New distribution')");
  await page.fill("#name", "Welcome");
  await page.fill("#event_name", "Voucher-sent");
  await page.fill("#url", server.url);
  await page.check("input[value='customer.rewarded']");
  await page.fill("#fields", "voucher.code as code");
  await api("POST", `/v1/tenants/${tenant}/events`, { type: "customer.rewarded", data: { voucher: { code: "W-0" } } });
  await page.click("button:text-is('Preview the payload')");
  await page.waitForSelector("h2:text-is('the last customer.rewarded')");
  assert.match(await page.textContent("section:has(> h2:text-is('becomes'))"), /"code": "W-0"/);
  await page.click("button:text-is('Make the distribution')");
  await page.waitForSelector(".told:has-text('The endpoint is there')");
  const distribution = page.url().replace(/\?.*/, "");

  const event = (code) => ({ type: "customer.rewarded", distribution: "*", data: { voucher: { code }, customer: { id: "c" } } });
  await api("POST", `/v1/tenants/${tenant}/events`, event("W-1"));
  await page.goto(distribution);
  await until(page, ".title .state:has-text('paused')");
  await api("POST", `/v1/tenants/${tenant}/events`, event("W-2"));
  await rail(page, "Notification center");
  await page.click("tbody a >> nth=0");
  const told = page.url();
  assert.ok(told.includes("/deliveries/") || told === distribution, told);

  server.status = 200;
  await page.goto(distribution);
  await page.click("button:text-is('Make live')");
  await page.waitForSelector(".told:has-text('Enabled')");
  await page.click("button:text-is('Send a test')");
  assert.match(await page.textContent(".result h2"), /arrived$/);
  for (const code of ["W-2", "W-1"]) {
    await page.goto(distribution);
    await page.click(code === "W-2" ? "tbody tr:has-text('skipped') a >> nth=0" : "tbody tr:has-text('failed') a >> nth=0");
    await page.click("button:text-is('Send again')");
    await delivered(page);
    assert.match(server.bodies.at(-1), new RegExp(`"code":"${code}"`));
  }
  await rail(page, "Audit log · Webhook send outs");
  await page.selectOption("select[name=status]", "succeeded");
  await page.click("button:text-is('Show')");
  assert.equal(await page.locator("tbody tr").count(), 2);
  await page.click("a:text-is('Show data') >> nth=0");
  assert.match(await lead(page), /^Delivered/);
  await rail(page, "Project settings");
  await page.click("button:text-is('Show') >> nth=0");
  const { secret } = await api("GET", `/v1/tenants/${tenant}/secret`);
  assert.ok((await page.textContent("main")).includes(secret), "the project's secret is shown");
  fine();
  await context.close();
  server.close();
}
