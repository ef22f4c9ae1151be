// Time charts with uPlot. The element says where its numbers are:
//   <div class="chart" data-chart="/url.json" data-keep id="…" role="img" aria-label="…"></div>
// and the answer is {"x": [unix seconds], "series": [{"label", "values": [number|null], "role"?}], "limit"?, "unit"?}.
import uPlot from "uplot/dist/uPlot.esm.js";
import { el } from "./dom.js";

const ROLES = ["accent", "ok", "notice", "danger", "content-muted"];
const REFRESH_MS = 60000;

// 24 hours; the day's name where a day begins.
function hour(seconds) {
  const at = new Date(seconds * 1000);
  if (!at.getHours() && !at.getMinutes()) return at.toLocaleDateString("en-GB", { weekday: "short", day: "numeric" });
  return at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

/** A role's colour as the canvas wants it: `light-dark()` is resolved by asking an element. */
function colour(node, role) {
  const probe = el("i", { hidden: true });
  node.append(probe);
  probe.style.color = `var(--${role})`;
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function withAlpha(css, alpha) {
  return css.endsWith(")") ? css.replace(/\)$/, ` / ${alpha})`).replace(/^rgb\(([^)]+)\)$/, (all, inner) => (inner.includes(",")
    ? `rgba(${inner.split("/")[0].trim()}, ${alpha})` : all)) : css;
}

function options(node, data, width) {
  const muted = colour(node, "content-muted");
  const line = colour(node, "stroke-default");
  const font = `11px ${getComputedStyle(node).fontFamily}`;
  const roles = data.series.map((series, index) => series.role || ROLES[index % ROLES.length]);
  const axis = { stroke: muted, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width,
    height: node.classList.contains("chart-sm") ? 96 : 168,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 6 }, sync: { key: node.dataset.chartSync || "cloudops" } },
    scales: { y: { range: (plot, low, high) => [0, Math.max(1, data.limit || 0, high || 0) * 1.08] } },
    axes: [{ ...axis, size: 28, grid: { show: false }, values: (plot, ticks) => ticks.map(hour) }, { ...axis, size: 44, values: (plot, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? `${tick}` : "")) }],
    series: [{}, ...data.series.map((series, index) => {
      const stroke = colour(node, roles[index]);
      return { label: series.label, stroke, width: 1.5, points: { show: false }, fill: data.series.length === 1 ? withAlpha(stroke, 0.1) : undefined };
    })],
    hooks: {
      draw: data.limit ? [(plot) => drawLimit(plot, data.limit, colour(node, "danger"))] : [],
      setCursor: [(plot) => note(node, plot, data)],
    },
  };
}

function drawLimit(plot, limit, stroke) {
  const y = Math.round(plot.valToPos(limit, "y", true));
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

// The numbers under the pointer, or the last ones: text, so that nothing is told by colour and shape alone.
function note(node, plot, data) {
  const index = plot.cursor.idx ?? data.x.length - 1;
  const when = data.x[index] ? new Date(data.x[index] * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" }) : "";
  const keys = data.series.map((series, at) => {
    const swatch = el("i");
    swatch.style.color = plot.series[at + 1]._stroke || plot.series[at + 1].stroke(plot, at + 1);
    const value = series.values[index];
    return el("span", { class: "chart-key" }, swatch, el("span", { text: series.label }), el("b", { text: value == null ? "–" : `${value}${data.unit ? ` ${data.unit}` : ""}` }));
  });
  if (data.limit) keys.push(el("span", { text: `limit ${data.limit}` }));
  node.querySelector(".chart-note").replaceChildren(el("span", { text: when }), ...keys);
}

/** Draws the chart of `node` and keeps it fresh, as wide as its box and in the theme's colours. */
export async function draw(node) {
  node.dataset.chartReady = "";
  const canvas = el("div");
  node.replaceChildren(canvas, el("div", { class: "chart-note" }));
  let data = null;
  let plot = null;
  const paint = () => {
    plot?.destroy();
    plot = new uPlot(options(node, data, canvas.clientWidth || 300), [data.x, ...data.series.map((series) => series.values)], canvas);
    note(node, plot, data);
  };
  const fetchData = async () => {
    try {
      const response = await fetch(node.dataset.chart, { headers: { Accept: "application/json" } });
      if (!response.ok) throw new Error(String(response.status));
      data = await response.json();
      paint();
    } catch {
      if (!data) node.querySelector(".chart-note").textContent = "These numbers could not be fetched. They are asked for again in a minute.";
    }
  };
  await fetchData();
  setInterval(() => node.isConnected && !document.hidden && fetchData(), REFRESH_MS);
  document.addEventListener("cloudops:theme", () => data && paint());
  new ResizeObserver(() => plot && plot.setSize({ width: canvas.clientWidth, height: plot.height })).observe(canvas);
}
