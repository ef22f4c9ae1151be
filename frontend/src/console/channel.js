// The WebSocket as noVNC sees it. noVNC knows neither close codes nor text messages, hence this one in between.
import { parseControl } from "./control.js";

export class ConsoleChannel {
  binaryType = "arraybuffer";
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  #socket;

  /** `hears`: {opened(), control(message), closing(event), closed(event)}; `closing` comes before noVNC knows. */
  constructor(url, protocols, hears) {
    const socket = new WebSocket(url, protocols);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = (event) => {
      hears.opened();
      this.onopen?.(event);
    };
    socket.onmessage = (event) => {
      if (typeof event.data !== "string") this.onmessage?.(event);
      else {
        const message = parseControl(event.data);
        if (message) hears.control(message);
      }
    };
    socket.onerror = (event) => this.onerror?.(event);
    socket.onclose = (event) => {
      hears.closing(event);
      this.onclose?.(event);
      hears.closed(event);
    };
  }

  get protocol() {
    return this.#socket.protocol;
  }

  get readyState() {
    return this.#socket.readyState;
  }

  send(data) {
    this.#socket.send(data);
  }

  /** Sends a control message; nothing happens on a socket that is not open. */
  say(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  close(code = 1000) {
    this.#socket.close(code);
  }
}
