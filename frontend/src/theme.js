// Runs before first paint: theme, density, rail and hidden columns as this person left them.
const root = document.documentElement;
const read = (key) => {
  try {
    return localStorage.getItem(`cloudops:${key}`);
  } catch {
    return null; // storage may be forbidden; the defaults do
  }
};

const theme = read("theme");
if (theme === "light" || theme === "dark") root.dataset.theme = theme;
if (read("density") === "compact") root.dataset.density = "compact";
if (read("rail") === "narrow") root.dataset.rail = "narrow";

try {
  const hidden = JSON.parse(read("columns") || "{}");
  const sheet = new CSSStyleSheet();
  for (const [table, columns] of Object.entries(hidden)) {
    for (const column of columns) {
      sheet.insertRule(`#${CSS.escape(table)} [data-col="${CSS.escape(column)}"] { display: none; }`);
    }
  }
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  window.cloudopsColumns = sheet;
} catch {
  // a broken memory is forgotten
}
