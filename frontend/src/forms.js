// Forms: filters that apply themselves, values that show beside a slider, focus on the first error, no double submits.
import { on } from "./dom.js";

const FILTER_WAIT_MS = 250;

export function startForms() {
  let timer = null;
  on("input", "[data-filter] [data-filter-input]", (event, input) => {
    clearTimeout(timer);
    timer = setTimeout(() => input.form.requestSubmit(), FILTER_WAIT_MS);
  });
  on("change", "[data-submit-on-change]", (event, input) => input.form.requestSubmit());
  on("input", "input[type=range][data-shows]", (event, input) => {
    document.getElementById(input.dataset.shows).textContent = input.value;
  });
  // A second click while the first is on its way would do it twice.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    const button = event.submitter;
    setTimeout(() => button?.setAttribute("aria-busy", "true"));
  });
  window.addEventListener("pageshow", () => {
    for (const busy of document.querySelectorAll("[aria-busy=true]")) busy.removeAttribute("aria-busy");
  });
  const first = document.querySelector("[data-autofocus]");
  first?.focus();
  const filter = document.querySelector("[data-filter-input]");
  if (filter?.value && new URLSearchParams(location.search).has("q") && !first) {
    filter.focus();
    filter.setSelectionRange(filter.value.length, filter.value.length);
  }
}
