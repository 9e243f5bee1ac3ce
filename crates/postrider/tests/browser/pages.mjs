// The pages in a real browser, on the server of the demo: the story from its link to a delivery that arrived, with and
// without scripts and by keyboard alone; accessibility, width and size of every page in both themes; frames.
//
//   node pages.mjs BINARY MODULES [SHOTS]
//
// Pictures of all pages are left in SHOTS, where that is given.

import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import assert from "node:assert/strict";
import { simplifyTrip, voucherify } from "./systems.mjs";

const [binary, modules, shots] = process.argv.slice(2);
const require = createRequire(join(modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const HTML_BYTES_MAX = 100 * 1024;
// What Chromium asks of the network by itself is nothing here.
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const SIZES = { desktop: [1280, 900], tablet: [820, 1180], phone: [375, 740] };

if (shots) mkdirSync(shots, { recursive: true });

function demo() {
  const child = spawn(binary, ["demo", "--stay"], { stdio: ["ignore", "pipe", "pipe"] });
  return new Promise((resolve, reject) => {
    let said = "";
    const hear = (data) => {
      said += data;
      const links = ["as who runs it", "as a customer"].map((who) => said.match(new RegExp(`${who}\\s+(\\S+)\n`))?.[1]);
      const key = said.match(/POSTRIDER_KEY=(\S+)/)?.[1];
      if (links.every(Boolean) && key) resolve({ child, console: links[0], portal: links[1], key });
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.on("exit", () => reject(new Error(`the demo ended:\n${said}`)));
  });
}

const { child, console: consoleLink, portal: portalLink, key } = await demo();
const origin = new URL(consoleLink).origin;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

async function api(method, path, body) {
  const answer = await fetch(origin + path, {
    method,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.status === 204 ? null : answer.json();
}

/** A browser of its own, in which nothing may go wrong unseen. */
async function visitor(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && wrong.push(`console: ${message.text()}`));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== origin && !request.url().startsWith("data:")) wrong.push(`asked elsewhere: ${request.url()}`);
  });
  return { context, page, fine: (counts = () => true) => assert.deepEqual(wrong.splice(0).filter(counts), []) };
}

async function comeIn(page, link, scripts = true) {
  await page.goto(link);
  if (!scripts) await page.click("button:text-is('Open')");
  await page.waitForURL((url) => !url.pathname.endsWith("/enter"));
}

const heading = (page) => page.textContent("h1");
const lead = (page) => page.textContent(".lead");

let gaveOut;

/** The demo's endpoint that always fails and is disabled, as it was before a story mended it. */
async function anEndpointThatGaveOut() {
  if (gaveOut) {
    await api("PATCH", `/v1/endpoints/${gaveOut.id}`, { url: gaveOut.url, active: false });
    return;
  }
  const applications = await api("GET", "/v1/applications");
  const travel = applications.data.find((found) => found.name === "travel");
  const tenant = (await api("GET", `/v1/applications/${travel.id}/tenants`)).data[0];
  const endpoints = (await api("GET", `/v1/tenants/${tenant.id}/endpoints`)).data;
  const [dead, steady] = ["dead", "steady"].map((name) => endpoints.find((found) => found.url.endsWith(name)));
  gaveOut = dead;
  return { tenant, good: steady.url };
}

/** From the first page to a delivery that arrived, as somebody who reads nothing but the pages. */
async function story(page, good, scripts = true) {
  if (scripts) page.on("dialog", (dialog) => dialog.accept());
  await page.click("h2:has-text('Failed lately') + .scroll a >> nth=0");
  assert.equal(await heading(page), "order.failed");
  assert.match(await lead(page), /^All 4 attempts failed; the last one ended with 503 Service Unavailable\./);
  assert.match(await page.textContent(".advice"), /endpoint is disabled/);
  const delivery = page.url();
  await page.click("text=See the endpoint");
  assert.match(await lead(page), /^Disabled/);
  await page.click("text=Send a test");
  assert.match(await page.textContent(".result h2"), /did not arrive/);
  await page.click("a:text-is('Change')");
  await page.fill("input[name=url]", good);
  await page.click("text=Save");
  assert.equal((await page.textContent(".told")).trim(), "Saved.");
  await page.click("text=Send a test");
  assert.match(await page.textContent(".result h2"), /arrived/);
  await page.click("button:text-is('Enable')");
  assert.match(await page.textContent(".told"), /^Enabled/);
  await page.goto(delivery);
  await page.click("text=Send again");
  // With scripts the page changes by itself.
  for (let looks = 0; !(await lead(page)).startsWith("Delivered"); looks += 1) {
    assert.ok(looks < 100, await lead(page));
    await page.waitForTimeout(100);
    if (!scripts) await page.goto(delivery);
  }
  assert.match(await lead(page), /^Delivered at attempt 5: 200 OK\./);
}

/** Goes to something by the tabulator key alone, and presses it. */
async function byKeyboard(page, text) {
  for (let steps = 0; steps < 80; steps += 1) {
    await page.keyboard.press("Tab");
    const found = await page.evaluate(() => {
      const at = document.activeElement;
      const style = getComputedStyle(at);
      return { text: at?.textContent?.trim(), seen: style.outlineStyle !== "none" && style.outlineWidth !== "0px" };
    });
    if (found.text === text) {
      assert.ok(found.seen, `the focus on ${text} cannot be seen`);
      await page.keyboard.press("Enter");
      await page.waitForLoadState();
      return;
    }
  }
  assert.fail(`no way to ${text} by keyboard`);
}

const PASSWORD = "a correct horse, and a battery";

/** Somebody who gets a link, chooses a password and comes in by name from then on: with the keyboard alone. */
async function userStory() {
  const made = await api("POST", "/v1/users", { name: "Grace@Example.com", role: "developer" });
  const { context, page, fine } = await visitor();
  await page.goto(made.url);
  assert.equal(await heading(page), "Choose a password");
  for (const again of ["something else entirely", PASSWORD]) {
    await page.focus("input[name=password]");
    await page.keyboard.type(PASSWORD);
    await page.keyboard.press("Tab");
    await page.keyboard.type(again);
    await byKeyboard(page, "Set the password");
    if (again !== PASSWORD) await page.waitForSelector(".wrong:has-text('not typed the same twice')");
  }
  await page.waitForSelector("h1:text-is('Overview')");
  await byKeyboard(page, "grace@example.com");
  await page.waitForSelector("h1:text-is('grace@example.com')");
  assert.match(await lead(page), /^You are a developer/);
  await byKeyboard(page, "Sign out");
  await page.waitForSelector("h1:text-is('Sign in')");
  for (const password of ["not this one, surely", PASSWORD]) {
    await page.focus("input[name=name]");
    await page.keyboard.press("Control+A");
    await page.keyboard.type("grace@example.com");
    await page.keyboard.press("Tab");
    await page.keyboard.type(password);
    await page.keyboard.press("Enter");
    if (password !== PASSWORD) await page.waitForSelector(".wrong:has-text('do not go together')");
  }
  await page.waitForSelector("h1:text-is('Overview')");
  const errors = ["400", "401"];
  // What was refused on purpose is an error to the browser.
  fine((wrong) => !errors.some((status) => wrong.includes(`status of ${status}`)));
  await context.close();
  return made;
}

/** What comes to a catcher is there without asking, and newer ones of a list are told of. */
async function liveStory(page, tenant) {
  await page.click("main a:text-is('Catcher')");
  await page.click("button:text-is('Make an address')");
  const url = await page.textContent("[data-copy] >> nth=0");
  const list = new URL(page.url()).pathname;
  await fetch(url, { method: "POST", body: JSON.stringify({ type: "hello.world" }) });
  await page.waitForSelector("td:text-is('hello.world')");
  await page.goto(`${origin}/portal/deliveries`);
  await api("POST", `/v1/tenants/${tenant.id}/events`, { type: "order.completed", data: {} });
  await page.waitForSelector("[data-news] a:has-text('new: show them')");
  const rows = await page.locator("tbody tr").count();
  await page.click("[data-news] a");
  await page.waitForFunction((before) => document.querySelectorAll("tbody tr").length > before, rows);
  return list;
}

/** A product's name, logo and colour, chosen on a page and seen in its portal. */
async function brandStory(tenant, portalLink) {
  const operator = await visitor();
  await comeIn(operator.page, (await api("POST", "/v1/console-links")).url);
  await operator.page.goto(`${origin}/applications/${tenant.application}/settings`);
  await operator.page.fill("input[name=brand_name]", "Ada Travel");
  await operator.page.fill("input[name=accent]", "#b00020");
  const picture = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="5" fill="#b00020"/></svg>';
  await operator.page.setInputFiles("input[type=file]", { name: "logo.svg", mimeType: "image/svg+xml", buffer: Buffer.from(picture) });
  await operator.page.waitForFunction(() => document.getElementById("logo").value.startsWith("data:image/svg+xml;base64,"));
  await operator.page.click("button:text-is('Save')");
  assert.equal((await operator.page.textContent(".told")).trim(), "Saved.");
  operator.fine();
  await operator.context.close();
  const customer = await visitor();
  await comeIn(customer.page, portalLink);
  assert.equal((await customer.page.textContent(".brand")).trim(), "Ada Travel");
  const seen = await customer.page.evaluate(() => ({
    colour: getComputedStyle(document.querySelector(".primary")).backgroundColor,
    logo: document.querySelector(".brand img").naturalWidth > 0,
  }));
  assert.deepEqual(seen, { colour: "rgb(176, 0, 32)", logo: true });
  customer.fine();
  await customer.context.close();
}

/** Everything that there is to look at, by name. */
async function pagesOf(base, tenant, link) {
  const endpoints = (await api("GET", `/v1/tenants/${tenant}/endpoints`)).data;
  const deliveries = (await api("GET", `/v1/deliveries?tenant=${tenant}`)).data;
  const retried = deliveries.find((found) => found.attemptsMade > 3) ?? deliveries[0];
  const failed = deliveries.find((found) => found.status === "failed") ?? deliveries[0];
  return {
    home: link,
    endpoint: `${base}/endpoints/${endpoints[0].id}`,
    "endpoint-new": `${base}/tenants/${tenant}/endpoints/new`,
    "endpoint-edit": `${base}/endpoints/${endpoints[0].id}/edit`,
    deliveries: `${base}/deliveries`,
    "deliveries-none": `${base}/deliveries?status=skipped`,
    delivery: `${base}/deliveries/${retried.id}`,
    "delivery-failed": `${base}/deliveries/${failed.id}`,
    events: `${base}/tenants/${tenant}/events`,
    event: `${base}/events/${retried.event}`,
    "event-types": `${base}/tenants/${tenant}/event-types`,
    statistics: `${base}/tenants/${tenant}/statistics`,
    replays: `${base}/tenants/${tenant}/replays?status=failed&preview=1`,
    notifications: `${base}/tenants/${tenant}/notifications`,
    settings: `${base}/tenants/${tenant}/settings`,
    verify: `${base}/tenants/${tenant}/verify`,
    audit: `${base}/audit`,
    profile: `${base}/profiles/vignetim`,
    missing: `${base}/deliveries/dlv_00000000000000000000000000`,
  };
}

/** What only the console has, or only another system's customers. */
async function othersOf(tenant) {
  const applications = (await api("GET", "/v1/applications")).data;
  const found = {};
  for (const name of ["trips", "vouchers"]) {
    const application = applications.find((known) => known.name === name);
    found[name] = (await api("GET", `/v1/applications/${application.id}/tenants`)).data[0].id;
  }
  const key = (await api("GET", `/v1/keys?tenant=${found.trips}`)).data[0].id;
  const distribution = (await api("GET", `/v1/tenants/${found.vouchers}/distributions`)).data[0].id;
  return {
    tenant: `/tenants/${tenant.id}`,
    application: `/applications/${tenant.application}`,
    "application-new": "/applications/new",
    "application-settings": `/applications/${tenant.application}/settings`,
    "tenant-delete": `/tenants/${tenant.id}/delete`,
    "tenant-new": `/applications/${tenant.application}/tenants/new`,
    system: "/system",
    tasks: "/tasks",
    notices: "/notices",
    users: "/users",
    me: "/me",
    keys: "/keys",
    "sign-in": "/sign-in",
    trips: `/tenants/${found.trips}`,
    "trips-event-types": `/tenants/${found.trips}/event-types`,
    key: `/keys/${key}`,
    "key-new": `/tenants/${found.trips}/keys/new`,
    vouchers: `/tenants/${found.vouchers}`,
    "vouchers-event-types": `/tenants/${found.vouchers}/event-types`,
    "send-outs": `/tenants/${found.vouchers}/send-outs`,
    "vouchers-settings": `/tenants/${found.vouchers}/settings`,
    "vouchers-notifications": `/tenants/${found.vouchers}/notifications`,
    distribution: `/distributions/${distribution}/edit`,
    "distribution-page": `/endpoints/${distribution}`,
  };
}

async function lookAtAll(name, link, pages) {
  const found = [];
  const first = await visitor();
  await comeIn(first.page, link);
  const state = await first.context.storageState();
  await first.context.close();
  for (const theme of ["light", "dark"]) {
    for (const [size, [width, height]] of Object.entries(SIZES)) {
      if (theme === "dark" && size !== "desktop") continue;
      const { context, page } = await visitor({ storageState: state, colorScheme: theme, viewport: { width, height } });
      for (const [what, path] of Object.entries(pages)) {
        const answer = await page.goto(origin + path);
        const bytes = (await answer.body()).length;
        if (bytes > HTML_BYTES_MAX) found.push(`${name} ${what}: ${bytes} bytes`);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (wide > 0) found.push(`${name} ${what} on ${size}: ${wide} pixels too wide`);
        if (size === "tablet") continue;
        if (shots) await page.screenshot({ path: join(shots, `${name}-${what}-${size}-${theme}.png`), fullPage: true });
        if (size === "desktop") {
          // The rules of the browser's tool run beside the page, past its policy. Of the other theme only its colours differ.
          const rules = theme === "dark" ? { runOnly: ["color-contrast"] } : {};
          const problems = await page.evaluate(`(async () => { ${axe}; const told = await axe.run(document, ${JSON.stringify(rules)}); return told.violations.map((v) => v.id + ': ' + v.nodes.slice(0, 3).map((n) => n.target + ' ' + (n.any[0]?.message ?? '')).join(' | ')); })()`);
          found.push(...problems.map((problem) => `${name} ${what} ${size} ${theme}: ${problem}`));
        }
      }
      await context.close();
    }
  }
  return found;
}

/** A page of another site that has something of ours in a frame. */
async function inFrame(link) {
  const server = createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end(`<!doctype html><title>shop</title><iframe src="${link}" width=900 height=700></iframe>`);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
}

try {
  const { tenant, good } = await anEndpointThatGaveOut();
  const base = "/portal";
  const link = async (more = {}) => (await api("POST", `/v1/tenants/${tenant.id}/portal-links`, { name: "ada@example.com", ...more })).url;

  // The links that the demo prints just work, and once.
  const operator = await visitor();
  await comeIn(operator.page, consoleLink);
  await story(operator.page, good);
  operator.fine();
  await operator.context.close();

  await anEndpointThatGaveOut();
  const customer = await visitor();
  await comeIn(customer.page, portalLink);
  await story(customer.page, good);
  customer.fine();
  await customer.context.close();

  await anEndpointThatGaveOut();
  const plain = await visitor({ javaScriptEnabled: false });
  await comeIn(plain.page, await link(), false);
  await story(plain.page, good, false);
  plain.fine();
  await plain.context.close();

  const keyboard = await visitor();
  await comeIn(keyboard.page, await link());
  await byKeyboard(keyboard.page, "Add endpoint");
  assert.equal(await heading(keyboard.page), "New endpoint");
  await keyboard.page.focus("input[name=url]");
  await keyboard.page.keyboard.type(good.replace("steady", "by-keyboard"));
  await byKeyboard(keyboard.page, "Add endpoint");
  assert.match(await keyboard.page.textContent(".secret"), /whs_/);
  keyboard.fine();
  await keyboard.context.close();

  // In a frame of the product that was named, and of nobody else.
  const shop = await inFrame("about:blank");
  for (const [origins, works] of [[[shop.origin], true], [["https://other.example"], false], [[], false]]) {
    const framed = await link({ frameOrigins: origins });
    shop.server.removeAllListeners("request");
    shop.server.on("request", (_, answer) => {
      answer.setHeader("content-type", "text/html");
      answer.end(`<!doctype html><title>shop</title><iframe src="${framed}" width=900 height=700></iframe>`);
    });
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(shop.origin);
    const frame = page.frames()[1];
    const shown = await frame.waitForSelector("h1", { timeout: works ? 10_000 : 1_500 }).catch(() => null);
    assert.equal(Boolean(shown), works, `frames of ${origins}`);
    await context.close();
  }
  shop.server.close();

  for (const system of [simplifyTrip, voucherify]) await system({ api, visitor, comeIn, origin });

  const user = await userStory();
  const live = await visitor();
  await comeIn(live.page, await link());
  const catcher = await liveStory(live.page, tenant);
  live.fine();
  await live.context.close();

  const again = (await api("POST", "/v1/console-links")).url;
  const own = await pagesOf("", tenant.id, "/");
  const portal = await pagesOf(base, tenant.id, "/portal");
  const catchers = { catchers: catcher.replace(/\/[^/]*$/, ""), catcher, caught: `${catcher}/1` };
  const invited = new URL((await api("POST", `/v1/users/${user.id}/links`)).url);
  const found = await Promise.all([
    lookAtAll("portal", await link(), { ...portal, ...catchers }),
    lookAtAll("console", again, { ...own, ...(await othersOf(tenant)), "choose-password": invited.pathname + invited.search }),
  ]);
  await brandStory(tenant, await link());
  assert.deepEqual(found.flat(), []);
  const pages = Object.keys(own).length * 2 + Object.keys(catchers).length + Object.keys(await othersOf(tenant)).length + 1;
  console.log(`the story three times and once of each other system, by keyboard, in frames, of a user, live and branded; ${pages} pages in three sizes, two themes${shots ? `: screenshots in ${shots}` : ""}`);
} finally {
  await browser.close();
  child.kill("SIGINT");
}
