// Text as key presses, key combinations, and what an on-screen keyboard did to its text field. Pure.
import keysyms from "../../node_modules/@novnc/novnc/core/input/keysymdef.js";

export const XK = {
  BackSpace: 0xff08, Tab: 0xff09, Return: 0xff0d, Escape: 0xff1b, Delete: 0xffff, Print: 0xff61,
  Shift: 0xffe1, Control: 0xffe3, Alt: 0xffe9, Super: 0xffeb, F1: 0xffbe,
};

const CONTROL = { "\n": XK.Return, "\r": XK.Return, "\t": XK.Tab, "\b": XK.BackSpace, "\x1b": XK.Escape, "\x7f": XK.Delete };
// QEMU turns a keysym into a key of its own map and leaves Shift to the client.
const SHIFTED = /[A-Z~!@#$%^&*()_+{}|:"<>?]/;

/** [{keysym, shift}] for a text; "\r\n" is one Return. */
export function strokes(text) {
  return [...text.replace(/\r\n/g, "\n")].map((char) => ({
    keysym: CONTROL[char] ?? keysyms.lookup(char.codePointAt(0)),
    shift: SHIFTED.test(char),
  }));
}

const key = (keysym, code) => ({ keysym, code });
const ctrlAlt = [key(XK.Control, "ControlLeft"), key(XK.Alt, "AltLeft")];

/** What the "Keys" menu offers: label and the keys, pressed in order and released backwards. */
export const COMBINATIONS = [
  { label: "Ctrl-Alt-Del", keys: [...ctrlAlt, key(XK.Delete, "Delete")] },
  ...[1, 2, 3, 4, 5, 6, 7].map((number) => ({
    label: `Ctrl-Alt-F${number}`, keys: [...ctrlAlt, key(XK.F1 + number - 1, `F${number}`)],
  })),
  { label: "Alt-Tab", keys: [key(XK.Alt, "AltLeft"), key(XK.Tab, "Tab")] },
  { label: "Super", keys: [key(XK.Super, "MetaLeft")] },
  { label: "Esc", keys: [key(XK.Escape, "Escape")] },
  { label: "Tab", keys: [key(XK.Tab, "Tab")] },
  { label: "Print", keys: [key(XK.Print, "PrintScreen")] },
  { label: "Ctrl-C", keys: [key(XK.Control, "ControlLeft"), key(0x63, "KeyC")] },
  { label: "Alt-F4", keys: [key(XK.Alt, "AltLeft"), key(XK.F1 + 3, "F4")] },
];

/** What was done between two contents of the field: how many characters were taken off its end, and what was added. */
export function fieldChange(before, after) {
  const old = [...before];
  const now = [...after];
  let same = 0;
  while (same < old.length && same < now.length && old[same] === now[same]) same += 1;
  return { backspaces: old.length - same, text: now.slice(same).join("") };
}
