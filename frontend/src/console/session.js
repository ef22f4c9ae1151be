// One console from the click to its end: takes a slot, connects, comes back when the line was lost, says why it ended.
// It draws nothing: `shows` does. See page.js for what it is told.
import { call } from "../api.js";
import { backoff } from "../backoff.js";
import { explain, failedStep, mayRetry } from "./reasons.js";

const OPEN_SECONDS = 15;
const PICTURE_SECONDS = 20;
const RESUME_SECONDS = 60;
const RELOAD_WAIT_MS = 1500;
const PING_MS = 5000;

export class Session {
  #shows;
  #facts;
  #makeScreen;
  #screen = null;
  #resume = null; // {secret}; in memory only
  #deadline = 0; // of resuming
  #attempt = 0;
  #timers = new Set();
  #pinger = null;
  #round = 0; // what belongs to an earlier try is not heard
  #askedAgain = false;

  /** `facts`: {openUrl, websocketUrl, viewOnly, target, reasons, isReload}; `makeScreen`: see screen.js. */
  constructor(facts, shows, makeScreen) {
    this.#facts = facts;
    this.#shows = shows;
    this.#makeScreen = makeScreen;
  }

  get screen() {
    return this.#screen;
  }

  /** Takes a slot and connects. */
  async open({ quietly = false } = {}) {
    const round = this.#start();
    if (!quietly) this.#shows.step("slot", "active");
    const answer = await this.#takeSlot();
    if (round !== this.#round) return;
    if (!answer.ok) {
      if (answer.problem.code === "console-limit") this.#shows.limit(answer.problem);
      else this.#shows.failed("slot", answer.problem);
      return;
    }
    const { data } = answer;
    if (data.slot) this.#shows.slots(data.slot);
    if (data.host) this.#shows.host(data.host.name || data.host);
    this.#facts.websocketUrl = data.websocket_url || this.#facts.websocketUrl;
    this.#connect("secret", data.secret);
  }

  /** Connects with a one-time secret that is there already. */
  join(secret) {
    this.#start();
    this.#connect("secret", secret);
  }

  async #takeSlot() {
    const ask = () => call("POST", this.#facts.openUrl, { view_only: this.#facts.viewOnly });
    const answer = await ask();
    // After a reload the page's own former console may hold the slot for a moment.
    if (answer.ok || answer.problem.code !== "console-limit" || !this.#facts.isReload) return answer;
    this.#facts.isReload = false;
    await new Promise((resolve) => setTimeout(resolve, RELOAD_WAIT_MS));
    return ask();
  }

  #start() {
    this.#stop();
    this.#resume = null;
    this.#deadline = 0;
    return (this.#round += 1);
  }

  #stop() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    clearInterval(this.#pinger);
  }

  #later(run, ms) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, ms);
    this.#timers.add(timer);
    return timer;
  }

  #connect(kind, secret) {
    const round = this.#round;
    const mine = (run) => (...values) => round === this.#round && run(...values);
    const resuming = kind === "resume";
    if (!resuming) {
      this.#shows.step("slot", "done");
      this.#shows.step("server", "active");
    }
    const url = new URL(this.#facts.websocketUrl, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    // A try that comes to nothing in time: a console that comes back may try again, a new one gives its slot back.
    const giveUp = () => (resuming ? screen.abandon() : screen.close());
    let pictureDue = null;
    const screen = this.#makeScreen({
      url, kind, secret, target: this.#facts.target, viewOnly: this.#facts.viewOnly,
      hears: {
        opened: mine(() => {
          if (!resuming) this.#shows.step("server", "done");
          if (!resuming) this.#shows.step("guest", "active");
          clearTimeout(openDue);
          pictureDue = this.#later(giveUp, PICTURE_SECONDS * 1000);
        }),
        control: mine((message) => this.#control(message)),
        picture: mine(() => {
          clearTimeout(pictureDue);
          this.#live();
        }),
        clipboard: mine((text) => this.#shows.clipboard(text)),
        closed: mine((end) => {
          clearTimeout(openDue);
          clearTimeout(pictureDue);
          this.#closed(end);
        }),
      },
    });
    const openDue = this.#later(giveUp, OPEN_SECONDS * 1000);
    this.#screen = screen;
  }

  #live() {
    this.#askedAgain = false;
    this.#deadline = 0;
    this.#attempt = 0;
    this.#shows.live();
    clearInterval(this.#pinger);
    const ping = () => this.#screen.say({ type: "ping", t: Math.round(performance.now()) });
    ping();
    this.#pinger = setInterval(ping, PING_MS);
  }

  #control(message) {
    if (message.type === "hello") {
      this.#resume = typeof message.resume === "string" && message.resume ? { secret: message.resume } : null;
      this.#facts.viewOnly = Boolean(message.view_only);
      this.#screen.viewOnly = this.#facts.viewOnly;
      this.#shows.hello(message);
    } else if (message.type === "pong") this.#shows.latency(Math.max(0, performance.now() - message.t));
    else if (message.type === "slots") this.#shows.slots(message);
    else if (message.type === "idle") this.#shows.idle(message);
    else if (message.type === "active") this.#shows.active();
    else this.#shows.releaseAsked(message);
  }

  #closed(end) {
    clearInterval(this.#pinger);
    const entry = explain(this.#facts.reasons, end.code, end.reason);
    const mayResume = entry.resumable && this.#resume && !end.garbled && !end.asked;
    if (this.#deadline) this.#retry(end.asked || end.garbled ? null : entry);
    else if (mayResume && (end.pictured || entry.reason === "vm_moved")) this.#startResuming(entry, end.canvas, end.pictured);
    else if (end.pictured) this.#end(end.garbled ? garbled() : entry, end.canvas);
    else this.#neverSeen(entry, end);
  }

  // Closed before there was a picture: the step that failed, in words.
  #neverSeen(entry, end) {
    if (this.#asksAgain(entry)) {
      this.open();
      return;
    }
    const step = end.asked || end.garbled ? (end.opened ? "guest" : "server") : failedStep(entry.reason, end.opened);
    this.#shows.failed(step, end.garbled ? garbledProblem() : end.asked ? slowProblem(step) : problemOf(entry, end.opened));
  }

  // At a limit the server says who holds the slots when it is asked again. The platform's own limit may be one that it
  // cannot see: once is enough then.
  #asksAgain(entry) {
    if (!this.#facts.openUrl || !["limit", "platform_limit"].includes(entry.reason)) return false;
    if (entry.reason === "platform_limit" && this.#askedAgain) return false;
    this.#askedAgain = entry.reason === "platform_limit";
    return true;
  }

  #startResuming(entry, canvas, wasLive) {
    this.#deadline = Date.now() + RESUME_SECONDS * 1000;
    this.#attempt = 0;
    this.#shows.resuming({ entry, canvas, deadline: this.#deadline });
    // A console that was let go finds its VM there already; one that was opened in between waits for it.
    this.#again(null, { atOnce: wasLive && entry.reason === "vm_moved" });
  }

  #retry(entry) {
    if (entry?.reason === "limit" && this.#facts.openUrl) {
      this.#deadline = 0;
      this.open({ quietly: true });
    } else if (entry && !mayRetry(entry)) this.#end(entry);
    else this.#again(entry);
  }

  #again(entry = null, { atOnce = false } = {}) {
    const wait = atOnce ? 0 : backoff(this.#attempt++, { first: 300, most: 5000 });
    if (Date.now() + wait >= this.#deadline) {
      this.#deadline = 0;
      this.#end({ reason: "not_resumed", text: `The console could not be brought back within ${RESUME_SECONDS} seconds.`, remedy: entry?.text || "" });
      return;
    }
    this.#shows.resumeTry(this.#attempt || 1, this.#deadline);
    this.#later(() => this.#connect("resume", this.#resume.secret), wait);
  }

  #end(entry, canvas = null) {
    this.#stop();
    this.#round += 1;
    this.#resume = null;
    this.#deadline = 0;
    this.#shows.ended(entry, canvas);
  }

  /** The person is done: the slot is free at once. `text` says why. */
  leave(entry) {
    const { screen } = this;
    const canvas = screen?.snapshot?.() ?? null;
    this.#end(entry, canvas);
    screen?.close();
  }

  stay() {
    this.#screen?.say({ type: "stay" });
  }
}

function problemOf(entry, wasOpen) {
  if (wasOpen || entry.reason !== "line_lost") return { code: entry.reason, title: entry.text, detail: "", remedy: entry.remedy };
  return {
    code: "unreachable", title: "The console's address cannot be reached.", detail: "",
    remedy: "Check the connection. Behind a proxy, WebSockets to this address must be allowed.",
  };
}

function slowProblem(step) {
  return step === "server"
    ? { code: "no-answer", title: `The server did not answer within ${OPEN_SECONDS} seconds.`, detail: "", remedy: "Try again in a moment." }
    : { code: "no-picture", title: `The VM's display sent no picture within ${PICTURE_SECONDS} seconds.`, detail: "", remedy: "Try again. If it stays so, restart the VM or ask an administrator." };
}

function garbled() {
  return { reason: "garbled", text: "The picture could not be understood.", remedy: "Open it again. If it comes back, tell an administrator." };
}

function garbledProblem() {
  const { text, remedy } = garbled();
  return { code: "garbled", title: text, detail: "", remedy };
}
