// A slider above a number field, with marks such as "now" and "ceiling". Without this script the number field is all
// there is, and enough:
//   <input type="number" min max data-slider data-marks='[{"at": 512, "label": "now"}]'>
// The values in the marks are in the field's unit. `data-slider-max` ends the slider earlier than the field.
import { el } from "./dom.js";

const CLOSE_PERCENT = 16;

/** Where `value` is between `low` and `high`, in percent. */
export function share(value, low, high) {
  if (high <= low) return 0;
  return Math.min(100, Math.max(0, (100 * (value - low)) / (high - low)));
}

/** Marks in their order, each with its place and the line (0 or 1) on which its label does not run into the last one's. */
export function placed(marks, low, high) {
  const found = marks.filter((mark) => mark.at >= low && mark.at <= high)
    .map((mark) => ({ ...mark, x: share(mark.at, low, high) })).sort((a, b) => a.x - b.x);
  const ends = [-Infinity, -Infinity];
  for (const mark of found) {
    mark.line = mark.x - ends[0] >= CLOSE_PERCENT ? 0 : 1;
    ends[mark.line] = mark.x;
  }
  return found;
}

function add(field) {
  const low = Number(field.min);
  const high = Number(field.dataset.sliderMax || field.max);
  if (!(high > low)) return;
  const marks = placed(JSON.parse(field.dataset.marks || "[]"), low, high);
  const label = field.labels[0]?.textContent.trim() || field.name;
  const slider = el("input", { type: "range", min: low, max: high, step: field.step || 1, "aria-label": `${label}, slider`, class: "slider-range" });
  const ticks = el("span", { class: "slider-marks", "aria-hidden": "true" }, ...marks.map((mark) => {
    const edge = mark.x > 80 ? "is-end" : mark.x < 20 ? "is-start" : "";
    const tick = el("span", { class: `slider-mark ${edge}`, "data-line": mark.line, text: mark.label });
    tick.style.left = `${mark.x}%`;
    return tick;
  }));
  const box = el("div", { class: "slider" }, slider, ticks);
  if (marks.some((mark) => mark.line)) box.dataset.lines = "2";
  const show = () => {
    slider.value = field.value;
    box.style.setProperty("--at", `${share(Number(slider.value), low, high)}%`);
  };
  const ceiling = marks.find((mark) => mark.ceiling);
  box.style.setProperty("--ceiling", `${ceiling ? ceiling.x : 100}%`);
  slider.addEventListener("input", () => {
    field.value = slider.value;
    show();
  });
  // The field's own change is what the form listens to.
  slider.addEventListener("change", () => field.dispatchEvent(new Event("change", { bubbles: true })));
  field.addEventListener("input", show);
  (field.closest(".input-unit") || field).before(box);
  show();
}

export function startSliders() {
  for (const field of document.querySelectorAll("input[data-slider]")) add(field);
}
