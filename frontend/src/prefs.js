// Theme, density and rail: remembered, applied at once.
import { on } from "./dom.js";
import { load, save } from "./store.js";

const root = document.documentElement;

export function setTheme(theme) {
  if (theme === "light" || theme === "dark") {
    root.dataset.theme = theme;
    save("theme", theme);
  } else {
    delete root.dataset.theme;
    save("theme", null);
  }
  mark();
  document.dispatchEvent(new CustomEvent("cloudops:theme"));
}

export function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function toggleDensity() {
  const compact = root.dataset.density !== "compact";
  root.dataset.density = compact ? "compact" : "comfortable";
  save("density", compact ? "compact" : null);
  mark();
}

export function toggleRail() {
  const narrow = root.dataset.rail !== "narrow";
  if (narrow) root.dataset.rail = "narrow";
  else delete root.dataset.rail;
  save("rail", narrow ? "narrow" : null);
}

function mark() {
  const theme = load("theme") || "system";
  for (const item of document.querySelectorAll("[data-set-theme]")) item.setAttribute("aria-pressed", String(item.dataset.setTheme === theme));
  for (const item of document.querySelectorAll("[data-toggle-density]")) item.setAttribute("aria-pressed", String(root.dataset.density === "compact"));
}

export function startPrefs() {
  on("click", "[data-set-theme]", (event, item) => setTheme(item.dataset.setTheme));
  on("click", "[data-toggle-density]", toggleDensity);
  on("click", "[data-toggle-rail]", toggleRail);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("cloudops:theme")));
  mark();
}
