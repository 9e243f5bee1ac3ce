// A receiver that verifies as each vendor publishes it, in Node. Its secrets are one JSON argument:
// {"vignetim": "...", "simplifytrip": "...", "voucherify": "..."}. Prints its port; GET / counts.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secrets = JSON.parse(process.argv[2]);
const counts = {};
const count = (system) => (counts[system] ??= { good: 0, bad: 0, first: null });

const hmac = (key, text) => createHmac("sha256", key).update(text).digest("hex");

function flatten(value, path, flat) {
  const under = (name) => (path === "" ? name : `${path}_${name}`);
  if (value === null) flat[path] = "";
  else if (Array.isArray(value)) value.forEach((item, index) => flatten(item, under(String(index)), flat));
  else if (typeof value === "object") for (const key of Object.keys(value)) flatten(value[key], under(key), flat);
  else flat[path] = String(value);
  return flat;
}

const verify = {
  vignetim(body, headers) {
    const expected = createHmac("sha256", secrets.vignetim).update(body).digest("hex");
    return timingSafeEqual(Buffer.from(headers["x-webhook-signature"]), Buffer.from(expected));
  },
  simplifytrip(body, headers) {
    const payload = JSON.parse(body);
    const flat = flatten(payload, "", Object.create(null));
    const text = Object.keys(flat).sort().map((key) => `${key}=${flat[key]}`).join("&");
    const fresh = Math.abs(Date.now() - Date.parse(payload.sentDate)) <= 24 * 3600 * 1000;
    return fresh && hmac(secrets.simplifytrip, text) === headers["x-simplify-trip-signature"];
  },
  voucherify(body, headers) {
    // The SDK signs what it parsed and wrote again; others sign the body as it came.
    const again = JSON.stringify(JSON.parse(body));
    const signature = headers["x-voucherify-signature"];
    return hmac(secrets.voucherify, again) === signature && hmac(secrets.voucherify, body) === signature;
  },
};

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    if (request.method === "GET") return response.end(JSON.stringify(counts));
    const system = request.url.slice(1);
    const body = Buffer.concat(chunks);
    let good = false;
    try {
      good = verify[system](body, request.headers);
    } catch (error) {
      count(system).first ??= String(error);
    }
    count(system)[good ? "good" : "bad"] += 1;
    if (!good) count(system).first ??= body.toString();
    response.statusCode = good ? 200 : 401;
    response.end();
  });
});
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
