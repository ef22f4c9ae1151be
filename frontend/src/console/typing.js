// Text as keystrokes, at a pace that a guest's keyboard buffer can follow.
import { strokes, XK } from "./keysyms.js";

const PACE_MS = 20;
const SHIFT = { keysym: XK.Shift };

/** Types `text` through `press(keys)`; tells `progress(done, all)`; `signal` cancels. Answers how many keys went out. */
export async function typeText(text, { press, progress = () => {}, signal, paceMs = PACE_MS }) {
  const all = strokes(text);
  for (let index = 0; index < all.length; index += 1) {
    if (signal?.aborted) return index;
    const { keysym, shift } = all[index];
    press(shift ? [SHIFT, { keysym }] : [{ keysym }]);
    progress(index + 1, all.length);
    await new Promise((resolve) => setTimeout(resolve, paceMs));
  }
  return all.length;
}
