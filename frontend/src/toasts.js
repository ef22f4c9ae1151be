// Toasts: the result of what you just did, and nothing else.
import { asProblem } from "./api.js";
import { el } from "./dom.js";

const KINDS = { success: "ok", ok: "ok", info: "neutral", warning: "notice", notice: "notice", error: "danger", danger: "danger" };
const LINGER_MS = 6000;

/** Shows a toast. Failures stay until they are closed. */
export function toast({ level = "info", title = "", text = "", detail = "", remedy = "", href = "", action = "" }) {
  const region = document.getElementById("toasts");
  if (!region) return;
  const kind = KINDS[level] || "neutral";
  const more = [detail && detail !== title ? detail : "", remedy].filter(Boolean).join(" ");
  const node = el("div", { class: `toast status-${kind}` },
    el("span", { class: "status-dot" }),
    el("p", { text: title || text || detail }),
    el("button", { type: "button", class: "toast-close", "aria-label": "Close", text: "×", onclick: () => close(node) }),
    more ? el("small", { text: more }) : null,
    href ? el("small", {}, el("a", { href, text: action || "Look" })) : null);
  region.append(node);
  while (region.children.length > 4) region.firstElementChild.remove();
  raise(region);
  if (kind !== "danger") lingerThenClose(node);
}

function lingerThenClose(node) {
  let timer = setTimeout(() => close(node), LINGER_MS);
  node.addEventListener("pointerenter", () => clearTimeout(timer));
  node.addEventListener("pointerleave", () => (timer = setTimeout(() => close(node), 2000)));
}

function close(node) {
  const region = node.parentElement;
  node.remove();
  if (region && !region.children.length && region.matches(":popover-open")) region.hidePopover();
}

// Shown again each time, so that it lies above a dialog that was opened meanwhile.
function raise(region) {
  if (region.matches(":popover-open")) region.hidePopover();
  region.showPopover?.();
}

export function toastProblem(problem) {
  toast({ level: "danger", title: problem.title, detail: problem.detail, remedy: problem.remedy });
}

function fromHtmx(xhr) {
  if ((xhr.getResponseHeader("HX-Trigger") || "").includes("toast")) return; // said already
  let body = null;
  try {
    body = JSON.parse(xhr.responseText);
  } catch {
    // not a problem document: the status has to do
  }
  toastProblem(asProblem(xhr.status, body, xhr.getResponseHeader("Retry-After")));
}

export function startToasts() {
  document.body.addEventListener("toast", (event) => toast(event.detail || {}));
  document.body.addEventListener("htmx:responseError", (event) => fromHtmx(event.detail.xhr));
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.body.addEventListener(name, () => toast({
      level: "danger", title: "The server cannot be reached.", remedy: "Check the connection and try again.",
    }));
  }
  for (const message of document.querySelectorAll("[data-message]")) {
    if (!/success|info|debug/.test(message.dataset.message)) continue;
    toast({ level: message.dataset.message, title: message.textContent.trim() });
    message.remove();
  }
}
