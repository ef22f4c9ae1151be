// Tables: selection with a bulk bar, a row cursor for the keyboard, rows that are links, column choice.
import { el, on } from "./dom.js";
import { load, save } from "./store.js";

const chosen = new Map(); // group of tables -> Set of values

/** Tables with the same `data-select="name"` are chosen from together; one without a name is alone. */
function groupOf(table) {
  return table.dataset.select || table.id;
}

function setOf(group) {
  if (!chosen.has(group)) chosen.set(group, new Set());
  return chosen.get(group);
}

function tablesOf(group) {
  return [...document.querySelectorAll("table[data-select]")].filter((table) => groupOf(table) === group);
}

function boxes(table) {
  return [...table.querySelectorAll("[data-select-row]")].filter((box) => !box.disabled);
}

/** Shows what is selected: rows, the heads' boxes, the bulk bar. Rows that are gone are no longer selected. */
function paint(table) {
  const group = groupOf(table);
  const set = setOf(group);
  const tables = tablesOf(group);
  const present = new Set(tables.flatMap(boxes).map((box) => box.value));
  for (const value of set) if (!present.has(value)) set.delete(value);
  for (const each of tables) paintRows(each, set);
  for (const bar of document.querySelectorAll(`[data-bulk-for="${CSS.escape(group)}"]`)) {
    bar.hidden = set.size === 0;
    for (const count of bar.querySelectorAll("[data-bulk-count]")) count.textContent = set.size;
  }
}

function paintRows(table, set) {
  const all = boxes(table);
  for (const box of all) {
    box.checked = set.has(box.value);
    box.closest("tr").setAttribute("aria-selected", String(box.checked));
  }
  const count = all.filter((box) => box.checked).length;
  for (const head of table.querySelectorAll("[data-select-all]")) {
    head.checked = count > 0 && count === all.length;
    head.indeterminate = count > 0 && count < all.length;
  }
}

function toggle(table, value, on) {
  if (on) setOf(groupOf(table)).add(value);
  else setOf(groupOf(table)).delete(value);
}

let last = null;

function onBox(event, box) {
  const table = box.closest("table");
  const all = boxes(table);
  const from = all.indexOf(last);
  const to = all.indexOf(box);
  const range = event.shiftKey && from >= 0 ? all.slice(Math.min(from, to), Math.max(from, to) + 1) : [box];
  for (const each of range) toggle(table, each.value, box.checked);
  last = box;
  paint(table);
}

function onBulkSubmit(event, bar) {
  const name = bar.dataset.bulkName || "ids";
  for (const stale of bar.querySelectorAll("[data-bulk-id]")) stale.remove();
  for (const value of setOf(bar.dataset.bulkFor)) bar.append(el("input", { type: "hidden", name, value, "data-bulk-id": true }));
}

function rows() {
  return [...document.querySelectorAll("table.table tbody tr:not(.row-note)")].filter((row) => row.offsetParent !== null);
}

/** Moves the row cursor by `step`; answers whether there is a table. */
export function moveCursor(step) {
  const all = rows();
  if (!all.length) return false;
  const current = all.findIndex((row) => row.hasAttribute("data-cursor"));
  const next = all[Math.max(0, Math.min(all.length - 1, current < 0 ? 0 : current + step))];
  for (const row of all) row.toggleAttribute("data-cursor", row === next);
  next.scrollIntoView({ block: "nearest" });
  const target = next.querySelector(".row-link") || next.querySelector("a");
  target?.focus({ preventScroll: true });
  return true;
}

export function selectAtCursor() {
  const row = document.querySelector("tr[data-cursor]");
  const box = row?.querySelector("[data-select-row]");
  if (!box || box.disabled) return;
  toggle(row.closest("table"), box.value, !box.checked);
  last = box;
  paint(row.closest("table"));
}

export function openAtCursor() {
  const row = document.querySelector("tr[data-cursor]");
  const link = row?.querySelector(".row-link") || row?.querySelector("a");
  if (link && document.activeElement !== link) link.click();
}

export function clearSelection() {
  for (const table of document.querySelectorAll("table[data-select]")) {
    setOf(groupOf(table)).clear();
    paint(table);
  }
}

function rememberColumns(table, hidden) {
  const all = JSON.parse(load("columns") || "{}");
  if (hidden.length) all[table] = hidden;
  else delete all[table];
  save("columns", JSON.stringify(all));
  const sheet = window.cloudopsColumns;
  if (!sheet) return;
  sheet.replaceSync(Object.entries(all).flatMap(([id, columns]) => columns.map(
    (column) => `#${CSS.escape(id)} [data-col="${CSS.escape(column)}"] { display: none; }`)).join("\n"));
}

function fillColumnMenu(menu) {
  const id = menu.dataset.columnsFor;
  const hidden = new Set(JSON.parse(load("columns") || "{}")[id] || []);
  menu.replaceChildren(...[...document.querySelectorAll(`#${CSS.escape(id)} thead [data-col]`)].map((head) => {
    const key = head.dataset.col;
    return el("button", {
      type: "button", class: "menu-item", "data-stay": true, "aria-pressed": String(!hidden.has(key)),
      text: head.textContent.trim(),
      onclick: (event) => {
        if (!hidden.delete(key)) hidden.add(key);
        event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(key)));
        rememberColumns(id, [...hidden]);
      },
    });
  }));
}

export function startTables() {
  on("click", "[data-select-row]", onBox);
  on("click", "[data-select-all]", (event, head) => {
    const table = head.closest("table");
    for (const box of boxes(table)) toggle(table, box.value, head.checked);
    paint(table);
  });
  on("submit", "[data-bulk-for]", onBulkSubmit, true);
  on("click", "[data-bulk-clear]", clearSelection);
  on("click", "tr[data-href]", (event, row) => {
    if (event.target.closest("a, button, input, label, summary, [popover]") || getSelection().toString()) return;
    if (event.ctrlKey || event.metaKey) open(row.dataset.href, "_blank", "noopener");
    else location.assign(row.dataset.href);
  });
  document.addEventListener("beforetoggle", (event) => {
    if (event.newState === "open" && event.target.matches?.("[data-columns-for]")) fillColumnMenu(event.target);
  }, true);
  document.addEventListener("cloudops:updated", () => document.querySelectorAll("table[data-select]").forEach(paint));
  document.querySelectorAll("table[data-select]").forEach(paint);
}
