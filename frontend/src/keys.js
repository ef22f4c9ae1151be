// Keyboard: `/` filters, `g` and a letter goes, j k x Enter in tables, `?` shows them all. Silent while typing.
import { el, isTyping, on } from "./dom.js";
import { openPalette } from "./palette.js";
import { clearSelection, moveCursor, openAtCursor, selectAtCursor } from "./tables.js";

const SEQUENCE_MS = 1200;
let pending = 0;

function onKeydown(event) {
  if ((event.metaKey || event.ctrlKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k" && !inConsole(event)) {
    event.preventDefault();
    openPalette();
    return;
  }
  if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey || isTyping(event.target) || inConsole(event)
    || document.querySelector("dialog[open]")) return;
  if (Date.now() - pending < SEQUENCE_MS) {
    pending = 0;
    const link = document.querySelector(`a[data-go="${CSS.escape(event.key)}"]`);
    if (link) {
      event.preventDefault();
      link.click();
    }
    return;
  }
  if (run(event)) event.preventDefault();
}

function inConsole(event) {
  return event.target instanceof Element && Boolean(event.target.closest("[data-keys-off]"));
}

function run(event) {
  switch (event.key) {
    case "g": pending = Date.now(); return true;
    case "/": return focusFilter();
    case "?": openKeys(); return true;
    case "j": return moveCursor(1);
    case "k": return moveCursor(-1);
    case "x": selectAtCursor(); return true;
    case "Enter": openAtCursor(); return false;
    case "Escape": clearSelection(); return false;
    default: return pageKey(event.key);
  }
}

function focusFilter() {
  const input = document.querySelector("[data-filter-input]");
  input?.focus();
  input?.select();
  return Boolean(input);
}

function pageKey(key) {
  const node = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
  node?.click();
  return Boolean(node);
}

function openKeys() {
  if (!document.getElementById("keys")) return;
  const fixed = [["Search and commands", ["Ctrl", "K"]], ["Filter this page", ["/"]], ["Next, previous row", ["j", "k"]],
    ["Select the row", ["x"]], ["Open the row", ["Enter"]], ["Clear the selection", ["Esc"]], ["This help", ["?"]]];
  const places = [...document.querySelectorAll("a[data-go]")].map((link) => [`Go to ${link.textContent.trim()}`, ["g", link.dataset.go]]);
  const page = [...document.querySelectorAll("[data-key]")].map((node) => [node.dataset.action || node.textContent.trim(), [node.dataset.key]]);
  document.getElementById("keys-list").replaceChildren(...[...fixed, ...places, ...page].map(([label, keys]) => el("div", {},
    el("dt", { text: label }), el("dd", {}, ...keys.map((key) => el("kbd", { text: key }))))));
  document.getElementById("keys").showModal();
}

export function startKeys() {
  document.addEventListener("keydown", onKeydown);
  on("click", "[data-open-keys]", openKeys);
}
