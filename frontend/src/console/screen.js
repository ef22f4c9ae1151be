// noVNC, held at arm's length: one connection's picture, keys and clipboard.
import RFB from "@novnc/novnc";
import { initLogging } from "../../node_modules/@novnc/novnc/core/util/logging.js";
import { ConsoleChannel } from "./channel.js";
import { subprotocols } from "./control.js";

const ABANDONED = 4000; // for the server as good as a lost line (RFC 6455, 7.4.2: codes for private use)

initLogging("none"); // how a console ends is said on the page, in words

export class Screen {
  #rfb = null;
  #channel;
  #target;
  #asked = false;

  /**
   * Opens `url` with a secret of `kind` ("secret" or "resume") and draws into `target`.
   * `hears`: {opened(), control(message), picture(), clipboard(text), closed({code, reason, opened, pictured, garbled, canvas})}.
   */
  constructor({ url, kind, secret, target, viewOnly, hears }) {
    const seen = { opened: false, pictured: false, garbled: false };
    let last = null;
    this.#target = target;
    this.#channel = new ConsoleChannel(url, subprotocols(kind, secret), {
      opened: () => {
        seen.opened = true;
        hears.opened();
      },
      control: (message) => hears.control(message),
      closing: () => (last = seen.pictured ? this.snapshot() : null),
      closed: (event) => hears.closed({ code: event.code, reason: event.reason, canvas: last, asked: this.#asked, ...seen }),
    });
    this.#rfb = new RFB(target, this.#channel, { shared: true });
    this.#rfb.viewOnly = viewOnly;
    this.#rfb.background = "transparent";
    this.#rfb.qualityLevel = 7;
    this.#rfb.addEventListener("connect", () => {
      seen.pictured = true;
      hears.picture();
    });
    // Ended by noVNC itself while the line was good: what came was not RFB.
    this.#rfb.addEventListener("disconnect", (event) => (seen.garbled = !event.detail.clean && this.#channel.readyState < WebSocket.CLOSED && !this.#asked));
    this.#rfb.addEventListener("securityfailure", () => (seen.garbled = true));
    this.#rfb.addEventListener("clipboard", (event) => hears.clipboard(event.detail.text));
  }

  get canvas() {
    return this.#target.querySelector("canvas");
  }

  say(message) {
    this.#channel.say(message);
  }

  /** Closes cleanly: the slot is free at once. */
  close() {
    this.#asked = true;
    this.#channel.say({ type: "bye" });
    this.#channel.close();
  }

  /** Closes so that the console may be resumed: this line is of no use, another one may be. */
  abandon() {
    this.#asked = true;
    this.#channel.close(ABANDONED);
  }

  set viewOnly(value) {
    this.#rfb.viewOnly = value;
  }

  /** "fit" scales to the window, "actual" shows 1:1 with scroll bars, "remote" asks the guest to take the window's size. */
  set fit(mode) {
    this.#rfb.scaleViewport = mode !== "actual";
    this.#rfb.resizeSession = mode === "remote";
  }

  focus() {
    this.#rfb.focus({ preventScroll: true });
  }

  blur() {
    this.#rfb.blur();
  }

  press(keys) {
    for (const { keysym, code } of keys) this.#rfb.sendKey(keysym, code, true);
    for (const { keysym, code } of [...keys].reverse()) this.#rfb.sendKey(keysym, code, false);
  }

  paste(text) {
    this.#rfb.clipboardPasteFrom(text);
  }

  toBlob() {
    return new Promise((resolve) => this.#rfb.toBlob(resolve, "image/png"));
  }

  /** A copy of the present picture, or null when there is none. */
  snapshot() {
    const canvas = this.canvas;
    if (!canvas?.width || !canvas.height) return null;
    const copy = document.createElement("canvas");
    copy.width = canvas.width;
    copy.height = canvas.height;
    copy.getContext("2d").drawImage(canvas, 0, 0);
    return copy;
  }
}
