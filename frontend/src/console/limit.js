// At the limit: who holds the slots, and the three ways out.
import { call } from "../api.js";
import { el, svg } from "../dom.js";
import { durationWords } from "../words.js";

const IDLE_SECONDS = 60;
const LEAST_WAIT_SECONDS = 3;
const MOST_WAIT_SECONDS = 15;

export class LimitPanel {
  #parts;
  #facts;
  #open;
  #problem = null;
  #timer = null;
  #waiting = false;

  /** `parts`: named elements of the panel; `open`: tries to open the console again, quietly. */
  constructor({ parts, facts, open }) {
    this.#parts = parts;
    this.#facts = facts;
    this.#open = open;
  }

  get waiting() {
    return this.#waiting;
  }

  /** Shows the refusal; when somebody waits already, asks again after the time the server named. */
  show(problem) {
    this.#problem = problem;
    const mine = this.#mine();
    const idle = this.#mineIdle();
    const where = problem.scope === "vm" ? this.#facts.vm : problem.scope === "user" ? "Your account" : problem.scope_name || this.#facts.host || "The host";
    const held = mine.length ? ` You hold ${mine.length}${idle.length ? `, ${idle.length} idle` : ""}.` : "";
    this.#parts.words.textContent = `${where} has ${problem.in_use} of ${problem.limit} consoles open.${problem.by_platform ? " The platform allows it no more." : ""}${held}`;
    this.#drawBar(problem);
    this.#parts.freeMine.hidden = mine.length === 0;
    this.#parts.freeMine.textContent = idle.length || !mine.length ? `Disconnect my idle ones${idle.length > 1 ? ` (${idle.length})` : ""}` : `Disconnect mine (${mine.length})`;
    const others = this.#others();
    this.#parts.ask.hidden = problem.may_ask_release === false || problem.scope === "user";
    this.#setReason(this.#parts.ask, others.length ? "" : "Nobody else's console may be asked for right now.");
    this.#parts.message.hidden = this.#parts.ask.hidden || !others.length;
    this.#drawHolders();
    if (this.#waiting) this.#waitOn();
  }

  // The capacity bar of the other pages, full: own connections and those from outside.
  #drawBar({ in_use: inUse, limit, foreign = 0 }) {
    const scale = Math.max(inUse, limit, 1);
    const share = (count) => `${(100 * count) / scale}%`;
    const parts = [["cap-used", 0, inUse - foreign], ["cap-foreign", inUse - foreign, foreign]];
    this.#parts.bar.replaceChildren(el("span", { class: "cap cap-lg", "data-level": "full" },
      svg("svg", { class: "cap-svg", "aria-hidden": "true" }, ...parts.map(([name, from, count]) => svg("rect", {
        class: name, x: share(from), width: share(count), height: "100%",
      }))),
      el("span", { class: "cap-text" }, el("b", { text: `${inUse} of ${limit}` }))));
  }

  #mine() {
    return this.#candidates().filter((each) => each.mine);
  }

  #mineIdle() {
    return this.#mine().filter((each) => each.idle_seconds >= IDLE_SECONDS);
  }

  #others() {
    return this.#candidates().filter((each) => !each.mine);
  }

  #candidates() {
    return this.#problem?.idle_candidates || [];
  }

  #setReason(button, reason) {
    if (reason) {
      button.setAttribute("aria-disabled", "true");
      button.dataset.reason = reason;
    } else {
      button.removeAttribute("aria-disabled");
      delete button.dataset.reason;
    }
  }

  #drawHolders() {
    this.#parts.holders.replaceChildren(...this.#candidates().map((each) => el("li", {},
      el("span", { class: "who", text: [each.mine ? "you" : each.user, each.vm].filter(Boolean).join(" · ") || "somebody in another project" }),
      el("span", { class: "idle-for", text: each.idle_seconds >= IDLE_SECONDS ? `idle ${durationWords(each.idle_seconds)}` : "in use" }),
      each.mine
        ? el("button", { type: "button", class: "btn btn-sm", text: "Disconnect", onclick: () => this.free([each]) })
        : el("button", { type: "button", class: "btn btn-sm", text: "Ask", onclick: () => this.ask(each) }))),
    ...this.#outside().map((each) => el("li", {},
      el("span", { class: "who", text: [[each.user, each.client].filter(Boolean).join(" at "), each.vm].filter(Boolean).join(" · ") || "somebody" }),
      el("span", { class: "idle-for", text: each.kind === "ghost" ? "left over" : "from outside CloudOps" }))));
  }

  #outside() {
    return (this.#problem?.holders || []).filter((each) => each.kind !== "console");
  }

  #note(text) {
    this.#parts.note.textContent = text;
  }

  /** Disconnects consoles of one's own (by default the idle ones, else all), then tries again. */
  async free(which = null) {
    const chosen = which || (this.#mineIdle().length ? this.#mineIdle() : this.#mine());
    if (!chosen.length) return;
    this.#note("Disconnecting …");
    const answers = await Promise.all(chosen.map((each) => call("DELETE", `${this.#facts.sessionsUrl}${each.id}/`)));
    const refused = answers.find((answer) => !answer.ok && answer.status !== 404);
    if (refused) this.#note(`${refused.problem.title} ${refused.problem.remedy}`);
    else {
      this.#note("");
      this.#open();
    }
  }

  /** Asks for somebody's slot (by default the one idle longest) and waits for it. */
  async ask(which = null) {
    const [first] = this.#others().sort((a, b) => b.idle_seconds - a.idle_seconds);
    const chosen = which || first;
    if (!chosen) return;
    this.#note("Asking …");
    const answer = await call("POST", `${this.#facts.sessionsUrl}${chosen.id}/release-request/`, { message: this.#parts.messageInput.value.trim() });
    if (!answer.ok) {
      this.#note(`${answer.problem.detail || answer.problem.title} ${answer.problem.remedy}`);
      return;
    }
    this.#waiting = true;
    this.#waitOn(`${chosen.user || "The person"} was asked. `, LEAST_WAIT_SECONDS);
  }

  /** Waits for a free slot, or stops waiting. Takes the slot when there is one and says so, in the background too. */
  toggleWaiting() {
    if (this.#waiting) {
      this.stopWaiting();
      this.#note("");
      return;
    }
    if ("Notification" in window && Notification.permission === "default") Notification.requestPermission();
    this.#waiting = true;
    this.#waitOn();
  }

  stopWaiting() {
    this.#waiting = false;
    clearTimeout(this.#timer);
    this.#parts.wait.textContent = "Tell me when one is free";
    document.title = this.#facts.title;
  }

  #waitOn(before = "", seconds = null) {
    clearTimeout(this.#timer);
    const named = this.#problem?.retryAfterSeconds || this.#problem?.retry_after_seconds || 10;
    let left = seconds ?? Math.max(LEAST_WAIT_SECONDS, Math.min(MOST_WAIT_SECONDS, named));
    this.#parts.wait.textContent = "Stop waiting";
    document.title = `Waiting · ${this.#facts.title}`;
    const tick = () => {
      if (left <= 0) {
        this.#note(`${before}Asking for a slot …`);
        this.#open();
        return;
      }
      this.#note(`${before}Waiting for a free slot, next try in ${left} s. You may leave this tab in the background.`);
      left -= 1;
      this.#timer = setTimeout(tick, 1000);
    };
    tick();
  }

  /** A slot was had: stops waiting and says so to somebody who looks elsewhere. */
  had() {
    if (!this.#waiting) return;
    this.stopWaiting();
    if (document.hidden && "Notification" in window && Notification.permission === "granted") {
      new Notification(`${this.#facts.vm}: a console slot is yours`, { tag: "cloudops-slot" });
    }
  }
}
