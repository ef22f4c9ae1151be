// The console page's script: wires the session, the page and the tools.
import { call } from "./api.js";
import { copyText } from "./copy.js";
import { el, on } from "./dom.js";
import { COMBINATIONS, fieldChange, strokes, XK } from "./console/keysyms.js";
import { LimitPanel } from "./console/limit.js";
import { byOwnHand, Page } from "./console/page.js";
import { Screen } from "./console/screen.js";
import { Session } from "./console/session.js";
import { typeText } from "./console/typing.js";
import { load, save } from "./store.js";
import { toast } from "./toasts.js";

const root = document.querySelector("[data-console]");
const byId = (id) => document.getElementById(id);
const parts = Object.fromEntries([...document.querySelectorAll("[data-part]")].map((node) => [node.dataset.part, node]));
const reasons = JSON.parse(byId("close-reasons")?.textContent || "{}") || {};
const facts = {
  vm: root.dataset.vmName,
  host: root.dataset.hostName,
  openUrl: root.dataset.openUrl,
  websocketUrl: root.dataset.websocketUrl,
  sessionsUrl: root.dataset.sessionsUrl,
  requestsUrl: root.dataset.requestsUrl,
  viewOnly: root.dataset.viewOnly === "true",
  target: parts.screen,
  reasons,
  title: document.title,
  isReload: performance.getEntriesByType("navigation")[0]?.type === "reload",
};

const page = new Page(root, parts, facts);
const session = new Session(facts, page, (values) => new Screen(values));
const limit = new LimitPanel({
  parts: {
    words: parts["limit-words"], freeMine: parts["free-mine"], ask: parts.ask, wait: parts.wait, note: parts["limit-note"],
    holders: parts.holders, bar: parts["limit-bar"], message: parts["ask-message"], messageInput: byId("ask-text"),
  },
  facts,
  open: () => session.open({ quietly: true }),
});

page.onLimit = (problem) => limit.show(problem);
page.onSlot = () => limit.had();
page.onLive = () => {
  setFit(load("console-fit") || "fit");
  const { canvas } = session.screen;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Screen of ${facts.vm}`);
  canvas.setAttribute("aria-describedby", "console-help");
  if (!document.querySelector("dialog[open]") && !facts.viewOnly) session.screen.focus();
};
page.onClipboard = (text) => (byId("clipboard-text").value = text);

// The secret leaves the address at once: it is used once, and no history or screenshot shall keep it.
function secretFromAddress() {
  const match = /^#s=([\w~.-]+)$/.exec(location.hash);
  if (location.hash) history.replaceState(null, "", location.pathname + location.search);
  return match?.[1] || "";
}

function start(secret = "") {
  page.starting();
  if (secret) session.join(secret);
  else if (facts.openUrl) session.open();
  else page.failed("slot", { code: "console-secret", title: "This console link was used already.", detail: "", remedy: "Open the console from the VM's page." });
}

// Tools

const usable = () => page.state === "live";

function setFit(mode) {
  const known = ["fit", "actual", "remote"].includes(mode) ? mode : "fit";
  save("console-fit", known);
  parts["fit-word"].textContent = { fit: "Fit", actual: "1:1", remote: "Guest" }[known];
  parts.frozen.dataset.fit = known;
  for (const item of document.querySelectorAll(".menu-item[data-fit]")) item.setAttribute("aria-pressed", String(item.dataset.fit === known));
  if (usable()) session.screen.fit = known;
}

function press(keys) {
  if (!usable() || facts.viewOnly) return;
  session.screen.press(keys);
  page.touched();
}

async function saveScreenshot() {
  const blob = await session.screen.toBlob();
  if (!blob) return;
  const url = URL.createObjectURL(blob);
  const stamp = new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-");
  const link = el("a", { href: url, download: `${facts.vm}-${stamp}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  toast({ level: "success", title: "The screenshot was saved." });
}

async function toggleFullscreen() {
  try {
    if (document.fullscreenElement) await document.exitFullscreen();
    else {
      await root.requestFullscreen();
      await navigator.keyboard?.lock?.().catch(() => {});
      toast({ level: "info", title: "Full screen. Move to the top for the tools; Esc, held, leaves it." });
    }
  } catch {
    toast({ level: "danger", title: "The browser did not allow full screen." });
  }
  if (usable()) session.screen.focus();
}

let typing = null;

async function sendText() {
  const text = byId("type-text").value + (byId("type-enter").checked ? "\n" : "");
  if (!text || typing) return;
  typing = new AbortController();
  const progress = byId("type-progress");
  progress.hidden = false;
  const all = strokes(text).length;
  const done = await typeText(text, {
    signal: typing.signal,
    press: (keys) => (usable() ? press(keys) : typing.abort()),
    progress: (count) => {
      progress.value = count / all;
      byId("type-note").textContent = `${count} of ${all} characters`;
    },
  });
  const stopped = typing.signal.aborted;
  typing = null;
  progress.hidden = true;
  byId("type-note").textContent = "";
  toast({ level: stopped ? "notice" : "success", title: stopped ? `Stopped after ${done} of ${all} characters.` : `${all} characters were typed.` });
  if (stopped) return;
  byId("type-text").value = "";
  byId("type-dialog").close();
  session.screen?.focus();
}

function cancelTyping() {
  if (typing) typing.abort();
  else byId("type-dialog").close();
}

// So that who asked learns the answer; the console closes here in any case.
function answerRequest(request, release) {
  if (request?.id) call("POST", `${facts.requestsUrl}${request.id}/answer/`, { release });
}

const actions = {
  open: () => start(),
  disconnect: () => session.leave(byOwnHand(reasons)),
  stay: () => {
    session.stay();
    if (usable()) session.screen.focus();
  },
  release: () => {
    const { asker, request } = page;
    answerRequest(request, true);
    session.leave({ ...byOwnHand(reasons), text: `You gave this slot to ${asker}.` });
  },
  keep: () => {
    answerRequest(page.request, false);
    page.kept();
  },
  "give-up": () => session.leave({ reason: "gave_up", text: "You stopped trying to bring this console back.", remedy: "" }),
  type: () => byId("type-dialog").showModal(),
  "type-send": sendText,
  "type-cancel": cancelTyping,
  clipboard: () => byId("clipboard-dialog").showModal(),
  "clipboard-send": () => {
    if (usable()) session.screen.paste(byId("clipboard-text").value);
    page.touched();
    byId("clipboard-dialog").close();
    toast({ level: "success", title: "Sent to the guest's clipboard." });
  },
  "clipboard-copy": async () => {
    if (await copyText(byId("clipboard-text").value)) toast({ level: "success", title: "Copied to this computer's clipboard." });
  },
  screenshot: saveScreenshot,
  fullscreen: toggleFullscreen,
  help: () => byId("help-dialog").showModal(),
  "focus-screen": () => {
    byId("help-dialog").close();
    if (usable()) session.screen.focus();
  },
  keyboard: () => parts.catch.focus(),
  "free-mine": () => limit.free(),
  ask: () => limit.ask(),
  wait: () => limit.toggleWaiting(),
};

on("click", "[data-do]", (event, button) => {
  if (button.getAttribute("aria-disabled") !== "true") actions[button.dataset.do]();
});
on("click", ".menu-item[data-fit]", (event, item) => setFit(item.dataset.fit));
parts["keys-menu"].append(...COMBINATIONS.map(({ label, keys }) => el("button", {
  type: "button", class: "menu-item", text: label,
  onclick: () => {
    press(keys);
    if (usable()) session.screen.focus();
  },
})));

// Input made in the screen puts off the idle warning here as it does on the server.
for (const type of ["keydown", "pointerdown", "pointermove", "wheel"]) {
  parts.screen.addEventListener(type, () => !facts.viewOnly && page.touched(), { capture: true, passive: true });
}

// The way out of the screen: Ctrl, Alt and Shift together, let go without another key.
let leaving = false;
const modifiers = new Set(["Control", "Alt", "Shift", "AltGraph", "Meta"]);
document.addEventListener("keydown", (event) => {
  leaving = parts.stage.contains(event.target) && modifiers.has(event.key)
    && event.getModifierState("Control") && event.getModifierState("Shift") && (event.getModifierState("Alt") || event.key === "Alt" || event.key === "Meta");
}, true);
document.addEventListener("keyup", (event) => {
  if (!leaving || event.ctrlKey || event.altKey || event.shiftKey || event.metaKey) return;
  leaving = false;
  // After noVNC has seen the last of the three go up, or the guest would keep them pressed.
  setTimeout(() => {
    session.screen?.blur();
    document.querySelector("[data-first-tool]").focus();
    page.says("The keyboard is free again.");
  });
}, true);

// On-screen keyboards give text, not keys: what changes in a hidden field becomes key presses.
const FILLER = "_".repeat(64);
let before = FILLER;
const refill = () => {
  parts.catch.value = before = FILLER;
  parts.catch.setSelectionRange(FILLER.length, FILLER.length);
};
parts.catch.addEventListener("focus", refill);
parts.catch.addEventListener("input", () => {
  const change = fieldChange(before, parts.catch.value);
  before = parts.catch.value;
  for (let index = 0; index < change.backspaces; index += 1) press([{ keysym: XK.BackSpace }]);
  for (const { keysym, shift } of strokes(change.text)) press(shift ? [{ keysym: XK.Shift }, { keysym }] : [{ keysym }]);
  if (before.length < 8 || before.length > 400) refill();
});

document.addEventListener("visibilitychange", () => document.hidden || page.state !== "live" || session.screen.say({ type: "ping", t: Math.round(performance.now()) }));
window.addEventListener("pagehide", () => session.screen?.close());
window.addEventListener("pageshow", (event) => event.persisted && start());

start(secretFromAddress());
