import { el } from "./dom.js";

/** A problem as a box, like templates/partials/problem.html. */
export function problemBox(problem) {
  return el("div", { class: "problem", role: "alert" },
    el("p", { class: "problem-title", text: problem.title || problem.detail }),
    problem.detail && problem.detail !== problem.title ? el("p", { text: problem.detail }) : null,
    problem.remedy ? el("p", { class: "problem-remedy", text: problem.remedy }) : null,
    problem.code ? el("p", { class: "problem-code", text: problem.code }) : null);
}
