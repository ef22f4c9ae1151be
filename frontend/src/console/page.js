// The console page: what the session says becomes pictures, words and buttons.
import { problemBox } from "../problems.js";
import { clock } from "../words.js";
import { explain } from "./reasons.js";

const NEAR_SHARE = 0.8;
const UNFREEZE_MS = 250;
const LATENCIES = 3;

export class Page {
  #root;
  #parts;
  #facts;
  #latencies = [];
  #policy = { warning: 0, disconnect: 0 };
  #lastInput = Date.now();
  #announced = 0;
  #request = null;
  state = "starting";

  constructor(root, parts, facts) {
    this.#root = root;
    this.#parts = parts;
    this.#facts = facts;
    setInterval(() => this.#tick(), 1000);
  }

  #set(state, word, kind) {
    this.state = state;
    this.#root.dataset.state = state;
    const status = this.#parts.state.querySelector(".status");
    status.className = `status status-${kind}`;
    this.#parts["state-word"].textContent = word;
    const live = state === "live";
    for (const tool of this.#root.querySelectorAll("[data-input], [data-live-only]")) {
      const reason = !live ? "The console is not connected." : tool.matches("[data-input]") && this.#facts.viewOnly ? "You may only look at this console." : "";
      if (reason) {
        tool.setAttribute("aria-disabled", "true");
        tool.dataset.reason = reason;
      } else {
        tool.removeAttribute("aria-disabled");
        delete tool.dataset.reason;
      }
    }
    for (const fact of ["latency", "idle"]) if (!live) this.#parts[fact].hidden = true;
    if (state === "ended") this.#parts.slot.hidden = true;
    if (!live) {
      this.#parts["idle-banner"].hidden = true;
      this.#parts["release-banner"].hidden = true;
    }
  }

  #only(name) {
    for (const part of ["connecting", "resuming", "ended", "limit"]) this.#parts[part].hidden = part !== name;
  }

  says(text) {
    this.#parts.says.textContent = text;
  }

  #freeze(canvas) {
    if (!canvas) return;
    const frozen = this.#parts.frozen;
    frozen.width = canvas.width;
    frozen.height = canvas.height;
    frozen.getContext("2d").drawImage(canvas, 0, 0);
    frozen.hidden = false;
  }

  starting() {
    this.#set("connecting", "connecting", "busy");
    this.#only("connecting");
    this.#parts["step-problem"].replaceChildren();
    this.#parts["step-actions"].hidden = true;
    for (const step of this.#parts.connecting.querySelectorAll("[data-step]")) {
      step.dataset.state = "pending";
      step.querySelector("[data-note]").textContent = "";
    }
  }

  // Called by the session

  step(name, state) {
    if (this.state !== "connecting") this.starting();
    const step = this.#parts.connecting.querySelector(`[data-step="${name}"]`);
    step.dataset.state = state;
    if (state === "done") this.says(step.querySelector("span:not(.step-mark)").textContent);
    if (name === "slot" && state === "done") this.onSlot?.();
  }

  failed(name, problem) {
    if (this.state !== "connecting") this.starting();
    this.step(name, "failed");
    this.#set("failed", "not connected", "danger");
    this.#parts["step-problem"].replaceChildren(problemBox(problem));
    this.#parts["step-actions"].hidden = false;
    this.#parts["step-actions"].querySelector("[data-do=open]").hidden = !this.#facts.openUrl;
  }

  limit(problem) {
    const isNew = this.state !== "limit";
    this.#set("limit", "waiting for a slot", "notice");
    this.#only("limit");
    this.slots(problem.scope === "host" ? problem : {});
    this.onLimit(problem);
    if (isNew) this.#parts.limit.focus();
  }

  hello(message) {
    if (message.host) this.host(message.host);
    if (message.slot) this.slots(message.slot);
    this.#facts.viewOnly = Boolean(message.view_only);
    this.#parts["view-only"].hidden = !this.#facts.viewOnly;
    this.#policy = { warning: message.idle_warning_seconds || 0, disconnect: message.idle_disconnect_seconds || 0 };
    this.touched();
  }

  host(name) {
    this.#facts.host = name;
  }

  slots({ in_use: inUse, limit }) {
    const part = this.#parts.slot;
    part.hidden = !(inUse >= 0 && limit > 0);
    if (part.hidden) return;
    part.textContent = `slot ${inUse} of ${limit}`;
    part.dataset.level = inUse >= limit ? "full" : inUse >= NEAR_SHARE * limit ? "high" : "";
  }

  latency(ms) {
    this.#latencies = [...this.#latencies, ms].slice(-LATENCIES);
    const middle = [...this.#latencies].sort((a, b) => a - b)[Math.floor(this.#latencies.length / 2)];
    this.#parts.latency.hidden = this.state !== "live";
    this.#parts.latency.textContent = middle < 1 ? "<1 ms" : `${Math.round(middle)} ms`;
  }

  live() {
    this.#set("live", this.#facts.host ? `running on ${this.#facts.host}` : "connected", "ok");
    this.#only("");
    setTimeout(() => this.state === "live" && (this.#parts.frozen.hidden = true), UNFREEZE_MS);
    document.title = this.#facts.title;
    this.touched();
    this.says(`Connected to ${this.#facts.vm}. Press Control, Alt and Shift together to leave its screen.`);
    this.onLive();
  }

  resuming({ entry, canvas, deadline }) {
    this.#freeze(canvas);
    const moving = entry.reason === "vm_moved";
    this.#set("resuming", moving ? "moving" : "reconnecting", "busy");
    this.#only("resuming");
    this.#parts["resume-title"].textContent = moving ? movingTitle(this.#facts.vm, entry.text) : entry.text;
    this.resumeTry(1, deadline);
    this.says(`${entry.text} Reconnecting by itself.`);
  }

  resumeTry(attempt, deadline) {
    const left = Math.max(0, Math.round((deadline - Date.now()) / 1000));
    this.#parts["resume-words"].textContent = `The console goes on here by itself. Try ${attempt}, for ${left} s more.`;
  }

  ended(entry, canvas) {
    this.#freeze(canvas);
    this.#set("ended", "closed", "off");
    this.#only("ended");
    document.title = `Closed · ${this.#facts.title}`;
    this.#parts["ended-title"].textContent = entry.title || "This console is closed";
    this.#parts["ended-words"].textContent = entry.text;
    this.#parts["ended-remedy"].textContent = entry.remedy || "";
    this.#parts["ended-remedy"].hidden = !entry.remedy;
    this.#parts["open-again"].hidden = !this.#facts.openUrl;
    // The focus on what comes next has the words read out; a live region would say them twice.
    (this.#facts.openUrl ? this.#parts["open-again"] : this.#parts.ended).focus();
  }

  idle({ disconnect_in_seconds: left, idle_seconds: idle }) {
    const banner = this.#parts["idle-banner"];
    if (banner.hidden) this.#announced = Infinity;
    banner.hidden = false;
    this.#parts.idle.hidden = true;
    const minutes = Math.max(1, Math.round(idle / 60));
    const since = idle < 60 ? `${idle} seconds` : minutes === 1 ? "a minute" : `${minutes} minutes`;
    this.#parts["idle-words"].textContent = left === null
      ? `No input for ${since}. Others may need this slot.`
      : `No input for ${since}. Disconnecting in ${clock(left)} so others can use the slot.`;
    document.title = left === null ? `Idle · ${this.#facts.title}` : `${clock(left)} · ${this.#facts.title}`;
    // Told once, then at half a minute and at ten seconds: not every second.
    for (const mark of [Infinity, 30, 10]) {
      if (this.#announced === mark && (mark === Infinity || left <= mark)) {
        this.says(this.#parts["idle-words"].textContent);
        this.#announced = { [Infinity]: 30, 30: 10, 10: 0 }[mark];
        break;
      }
    }
  }

  active() {
    this.#parts["idle-banner"].hidden = true;
    document.title = this.#facts.title;
    this.touched();
  }

  releaseAsked(message) {
    this.#request = message;
    const words = `${message.from || "Somebody"} asks for this slot${message.message ? `: “${message.message}”` : "."}`;
    this.#parts["release-words"].textContent = words;
    this.#parts["release-banner"].hidden = false;
    this.says(words);
  }

  kept() {
    this.#request = null;
    this.#parts["release-banner"].hidden = true;
  }

  get request() {
    return this.#request;
  }

  get asker() {
    return this.#request?.from || "somebody else";
  }

  clipboard(text) {
    this.onClipboard(text);
  }

  /** Real input was made here: the count toward idle begins again. */
  touched() {
    this.#lastInput = Date.now();
  }

  #tick() {
    const part = this.#parts.idle;
    const left = this.#policy.warning - (Date.now() - this.#lastInput) / 1000;
    part.hidden = this.state !== "live" || !this.#policy.warning || left < 0 || !this.#parts["idle-banner"].hidden || this.#facts.viewOnly;
    if (!part.hidden) part.textContent = `idle in ${clock(left)}`;
    part.dataset.level = left < 60 ? "high" : "";
  }
}

/** "web-7 is moving to kvm-02 …" of the server's sentence; its general one names the VM by no name. */
export function movingTitle(vm, text) {
  const words = text.startsWith("The VM ") ? `${vm} ${text.slice("The VM ".length)}` : text;
  return `${words.replace(/\.$/, "")} …`;
}

/** How a console ends that the person ends: the server's own words. */
export function byOwnHand(reasons) {
  return { ...explain(reasons, 1000), remedy: "" };
}

