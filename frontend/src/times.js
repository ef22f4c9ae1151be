// Keeps relative times and idle bars current between updates from the server.
import { clock, relative } from "./words.js";

const bases = new WeakMap();

function tickTimes(now) {
  for (const time of document.querySelectorAll("time[data-rel]")) {
    const words = relative(Date.parse(time.dateTime), now, time.dataset.rel);
    if (time.textContent !== words) time.textContent = words;
  }
}

function tickIdle(now) {
  for (const idle of document.querySelectorAll("[data-idle]")) {
    let base = bases.get(idle);
    if (!base) bases.set(idle, (base = { at: now, seconds: Number(idle.dataset.idle) }));
    const seconds = base.seconds + (now - base.at) / 1000;
    const bar = idle.querySelector("progress");
    const warning = Number(idle.dataset.idleWarning);
    bar.value = seconds;
    bar.classList.toggle("is-notice", warning > 0 && seconds >= warning);
    idle.querySelector("span").textContent = clock(seconds);
  }
}

/** Forgets what was counted locally below `root`: the server has just said it better. */
export function resync(root) {
  for (const idle of root.querySelectorAll("[data-idle]")) bases.delete(idle);
}

export function startTimes() {
  const tick = () => {
    if (document.hidden) return;
    const now = Date.now();
    tickTimes(now);
    tickIdle(now);
  };
  tick();
  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", tick);
  document.addEventListener("cloudops:updated", (event) => resync(event.target));
}
