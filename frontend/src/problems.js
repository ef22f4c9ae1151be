import { el, svg } from "./dom.js";

/** A problem as a box, like templates/partials/problem.html. */
export function problemBox(problem) {
  return el("div", { class: "problem", role: "alert" },
    svg("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
      svg("path", { d: "M5.4 2h5.2L14 5.4v5.2L10.6 14H5.4L2 10.6V5.4z" }), svg("path", { d: "M8 5v3.5M8 10.9h.01" })),
    el("p", { class: "problem-title", text: problem.title || problem.detail }),
    problem.detail && problem.detail !== problem.title ? el("p", { text: problem.detail }) : null,
    problem.remedy ? el("p", { class: "problem-remedy", text: problem.remedy }) : null,
    problem.code ? el("p", { class: "problem-code", text: problem.code }) : null);
}
