// Charts are a chunk of their own, fetched only by pages that have one.
export function startCharts() {
  const load = async () => {
    const waiting = [...document.querySelectorAll("[data-chart]:not([data-chart-ready])")];
    if (!waiting.length) return;
    const { draw } = await import("./charts.js");
    for (const node of waiting) draw(node);
  };
  load();
  document.addEventListener("cloudops:updated", load);
  document.body.addEventListener("htmx:afterSettle", load);
}
