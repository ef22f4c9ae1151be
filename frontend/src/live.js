// Numbers that change by themselves: one WebSocket says which topics changed, the page fetches those fragments again.
import htmx from "htmx.org/dist/htmx.esm.js";
import { Idiomorph } from "idiomorph/dist/idiomorph.esm.js";
import { backoff } from "./backoff.js";
import { toast } from "./toasts.js";

const POLL_MS = 5000;
const PATIENCE_MS = 3000;
// A hint can be lost (Redis restarts): also a live page asks for everything again from time to time.
const CERTAINTY_MS = 15000;
const WORDS = { connecting: "connecting", live: "live", reconnecting: "reconnecting", polling: "polling", off: "signed out" };

/** What belongs to the person and not to the server: open details, selection, cursor. */
const KEPT_ATTRIBUTES = new Set(["open", "aria-selected", "data-cursor", "aria-expanded", "aria-busy"]);

const MORPH = {
  morphStyle: "outerHTML",
  ignoreActiveValue: true,
  restoreFocus: true,
  callbacks: {
    beforeNodeMorphed: (old) => !(old instanceof Element && (old.matches("[data-keep], [data-select-row], [data-select-all]")
      || (old === document.activeElement && old.matches("input, textarea, select")))),
    beforeAttributeUpdated: (name) => !KEPT_ATTRIBUTES.has(name),
  },
};

export function topicsOf(root) {
  const found = new Set();
  for (const node of root.querySelectorAll("[data-live]")) {
    for (const topic of node.dataset.live.split(/\s+/)) if (topic) found.add(topic);
  }
  return [...found];
}

function affected(topics) {
  return [...document.querySelectorAll("[data-live]")].filter((node) => node.id
    && (topics === null || node.dataset.live.split(/\s+/).some((topic) => topics.has(topic))));
}

const running = new Map(); // address -> ids asked for again meanwhile

/** Fetches the fragments that show `topics` (null: all) again, one request per address. */
export function refresh(topics = null) {
  const byUrl = new Map();
  for (const node of affected(topics)) {
    const url = node.dataset.liveUrl || location.pathname + location.search;
    byUrl.set(url, [...(byUrl.get(url) || []), node.id]);
  }
  for (const [url, ids] of byUrl) fetchInto(url, ids);
}

async function fetchInto(url, ids) {
  if (running.has(url)) {
    for (const id of ids) running.get(url).add(id);
    return;
  }
  running.set(url, new Set());
  try {
    const response = await fetch(url, {
      headers: { "X-Live": ids.join(" "), Accept: "text/html" },
      credentials: "same-origin",
      signal: AbortSignal.timeout(10000),
    });
    if (response.redirected && new URL(response.url).pathname !== new URL(url, location.href).pathname) signedOut();
    else if (response.ok) apply(await response.text(), ids);
  } catch {
    // the next change or poll asks again
  }
  const again = running.get(url);
  running.delete(url);
  if (again.size) fetchInto(url, [...again]);
}

function apply(html, ids) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const id of ids) {
    const old = document.getElementById(id);
    const next = fresh.getElementById(id);
    if (!old || !next || old.querySelector("dialog[open]")) continue;
    Idiomorph.morph(old, next, MORPH);
    const now = document.getElementById(id);
    htmx.process(now);
    now.dispatchEvent(new CustomEvent("cloudops:updated", { bubbles: true }));
  }
}

let state = "connecting";
let socket = null;
let attempt = 0;
let poller = null;
let retry = null;

function show(next) {
  state = next;
  for (const indicator of document.querySelectorAll("[data-live-indicator]")) {
    if (indicator.dataset.state === next) continue;
    indicator.dataset.state = next;
    indicator.querySelector(".live-word").textContent = WORDS[next];
  }
}

function signedOut() {
  if (state === "off") return;
  stop();
  show("off");
  toast({ level: "danger", title: "You are signed out.", remedy: "Sign in again to go on.", href: location.href, action: "Sign in" });
}

function stop() {
  clearInterval(poller);
  clearTimeout(retry);
  poller = null;
  if (socket) {
    socket.onclose = null;
    socket.close();
    socket = null;
  }
}

function subscribe() {
  const topics = topicsOf(document);
  if (socket?.readyState === WebSocket.OPEN && topics.length) socket.send(JSON.stringify({ subscribe: topics }));
}

function connect() {
  clearTimeout(retry);
  if (!topicsOf(document).length) return;
  const url = new URL(document.body.dataset.liveUrl, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url);
  socket.onopen = () => {
    const returned = attempt > 0;
    attempt = 0;
    clearInterval(poller);
    poller = null;
    show("live");
    subscribe();
    if (returned) refresh(); // what changed while the line was down
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (Array.isArray(message.changed)) refresh(new Set(message.changed));
  };
  socket.onclose = (event) => {
    socket = null;
    if (event.code === 4401) signedOut();
    else again();
  };
}

function again() {
  if (state === "live" || state === "connecting") show("reconnecting");
  const wait = backoff(attempt++);
  retry = setTimeout(connect, wait);
  if (!poller) {
    poller = setInterval(() => {
      if (socket?.readyState === WebSocket.OPEN || document.hidden) return;
      show("polling");
      refresh();
    }, attempt > 1 ? POLL_MS : PATIENCE_MS);
  }
}

export function startLive() {
  if (!document.body.dataset.liveUrl || !document.querySelector("[data-live]")) {
    for (const indicator of document.querySelectorAll("[data-live-indicator]")) indicator.hidden = true;
    return;
  }
  for (const node of document.querySelectorAll("[data-live-now][id]")) fetchInto(node.dataset.liveUrl, [node.id]);
  connect();
  setInterval(() => state === "live" && !document.hidden && refresh(), CERTAINTY_MS);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || state === "live" || state === "off" || socket) return;
    attempt = Math.min(attempt, 1);
    connect();
  });
  window.addEventListener("offline", () => socket?.close());
  window.addEventListener("online", () => state !== "live" && state !== "off" && !socket && connect());
  document.body.addEventListener("htmx:afterSettle", subscribe);
}
