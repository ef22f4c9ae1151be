// ⌘K: goes anywhere, runs what the page offers, and shows the keys for it.
import { el, on } from "./dom.js";
import { score } from "./match.js";
import { isDark, setTheme, toggleDensity, toggleRail } from "./prefs.js";

const SEARCH_WAIT_MS = 120;
let items = [];
let current = 0;
let timer = null;
let asking = null;

function localItems() {
  const page = [...document.querySelectorAll("[data-action]")].filter((node) => node.getAttribute("aria-disabled") !== "true").map((node) => ({
    group: "On this page", label: node.dataset.action, keys: node.dataset.key ? [node.dataset.key] : [], run: () => node.click(),
  }));
  const places = [...document.querySelectorAll(".rail a.rail-item, #account-menu a.menu-item")].map((link) => ({
    group: "Go to", label: link.textContent.trim(), keys: link.dataset.go ? ["g", link.dataset.go] : [], run: () => location.assign(link.href),
  }));
  const own = [
    { label: isDark() ? "Use the light theme" : "Use the dark theme", run: () => setTheme(isDark() ? "light" : "dark") },
    { label: "Follow the system's theme", run: () => setTheme("system") },
    { label: "Compact or comfortable rows", run: toggleDensity },
    { label: "Collapse or widen the navigation", run: toggleRail },
    { label: "Show the keyboard shortcuts", keys: ["?"], run: () => document.getElementById("keys").showModal() },
  ].map((item) => ({ group: "This window", keys: [], ...item }));
  return [...page, ...places, ...own];
}

function ranked(query) {
  return localItems().map((item) => ({ ...item, rank: score(query, item.label) })).filter((item) => item.rank > 0)
    .sort((a, b) => (query ? b.rank - a.rank : 0));
}

async function remote(query) {
  asking?.abort();
  asking = new AbortController();
  try {
    const url = new URL(document.body.dataset.searchUrl, location.href);
    url.searchParams.set("q", query);
    const response = await fetch(url, { signal: asking.signal, headers: { Accept: "application/json" } });
    if (!response.ok) return [];
    const found = await response.json();
    return (found.results || found).map((hit) => ({
      group: "Found", label: hit.label, kind: hit.kind, keys: [], run: () => location.assign(hit.url),
    }));
  } catch {
    return null; // a later question replaced this one, or the line is down
  }
}

function draw(list) {
  const box = document.getElementById("palette-list");
  items = list.slice(0, 40);
  current = 0;
  const nodes = [];
  let group = "";
  items.forEach((item, index) => {
    if (item.group !== group) nodes.push(el("div", { class: "palette-group", role: "presentation", text: (group = item.group) }));
    nodes.push(el("div", {
      class: "palette-item", role: "option", id: `palette-${index}`, "aria-selected": String(index === 0),
      onclick: () => choose(index), onpointermove: () => point(index),
    },
    el("span", { class: "truncate", text: item.label }),
    item.kind ? el("span", { class: "kind", text: item.kind }) : null,
    item.keys.length ? el("span", { class: "kbds" }, ...item.keys.map((key) => el("kbd", { text: key }))) : null));
  });
  if (!nodes.length) nodes.push(el("p", { class: "palette-none", text: "Nothing by that name. Try vm:, host:, user: or tag: before it." }));
  box.replaceChildren(...nodes);
  point(0, true);
}

function point(index, force = false) {
  if (index === current && !force) return;
  document.getElementById(`palette-${current}`)?.setAttribute("aria-selected", "false");
  current = index;
  const node = document.getElementById(`palette-${index}`);
  node?.setAttribute("aria-selected", "true");
  node?.scrollIntoView({ block: "nearest" });
  const input = document.getElementById("palette-input");
  if (node) input.setAttribute("aria-activedescendant", node.id);
  else input.removeAttribute("aria-activedescendant");
}

function choose(index) {
  const item = items[index];
  if (!item) return;
  document.getElementById("palette").close();
  item.run();
}

function onInput(event) {
  const query = event.target.value.trim();
  draw(ranked(query));
  clearTimeout(timer);
  asking?.abort();
  if (query.length < 2) return;
  timer = setTimeout(async () => {
    const found = await remote(query);
    if (found && event.target.value.trim() === query) draw([...found, ...ranked(query)]);
  }, SEARCH_WAIT_MS);
}

function onKey(event) {
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
  if (step) {
    event.preventDefault();
    point(Math.abs(step) === 1 ? (current + step + items.length) % Math.max(1, items.length) : Math.max(0, Math.min(items.length - 1, current + step)));
  } else if (event.key === "Enter") {
    event.preventDefault();
    choose(current);
  }
}

export function openPalette() {
  const dialog = document.getElementById("palette");
  if (!dialog || dialog.open || document.querySelector("dialog[open]")) return;
  const input = document.getElementById("palette-input");
  input.value = "";
  draw(ranked(""));
  dialog.showModal();
  input.focus();
}

export function startPalette() {
  const input = document.getElementById("palette-input");
  if (!input) return;
  input.addEventListener("input", onInput);
  input.addEventListener("keydown", onKey);
  on("click", "[data-open-palette]", openPalette);
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
  for (const key of document.querySelectorAll("[data-mod-key]")) key.textContent = isMac ? "⌘K" : "Ctrl K";
}
