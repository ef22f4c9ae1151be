/** A control message of the server, or null when it is none: an object with a known `type` and the numbers it needs. */
const NEEDED = {
  hello: { session: "string" },
  idle: { idle_seconds: "number" },
  active: {},
  slots: { in_use: "number", limit: "number" },
  "release-request": {},
  pong: { t: "number" },
};

export function parseControl(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return null;
  }
  if (!message || typeof message !== "object" || !Object.hasOwn(NEEDED, message.type)) return null;
  return Object.entries(NEEDED[message.type]).every(([key, kind]) => typeof message[key] === kind) ? message : null;
}

/** The subprotocols that a console's socket offers. `kind` is "secret" or "resume". */
export function subprotocols(kind, secret) {
  return ["binary", `cloudops.${kind}.${secret}`, "cloudops.control.v1"];
}
