import assert from "node:assert/strict";
import test from "node:test";
import { asProblem } from "../src/api.js";
import { parseControl, subprotocols } from "../src/console/control.js";
import { COMBINATIONS, fieldChange, strokes, XK } from "../src/console/keysyms.js";
import { movingTitle } from "../src/console/page.js";
import { explain, failedStep, mayRetry } from "../src/console/reasons.js";
import { typeText } from "../src/console/typing.js";

const TABLE = {
  1000: { reason: "user_closed", text: "You closed this console.", resumable: false },
  4431: { reason: "vm_moved", text: "The VM is moving to another host.", resumable: true },
  4401: { reason: "secret", text: "This console link is not valid.", resumable: false },
  4434: { reason: "guest_unreachable", text: "The VM's display cannot be reached.", resumable: false },
};

test("letters that need Shift on the keyboard come with Shift", () => {
  assert.deepEqual(strokes("aA1!"), [
    { keysym: 0x61, shift: false }, { keysym: 0x41, shift: true }, { keysym: 0x31, shift: false }, { keysym: 0x21, shift: true },
  ]);
});

test("line ends, tabs and letters beyond Latin-1 become their keysyms", () => {
  assert.deepEqual(strokes("\r\n\t").map((stroke) => stroke.keysym), [XK.Return, XK.Tab]);
  assert.deepEqual(strokes("é€я😀").map((stroke) => stroke.keysym), [0xe9, 0x20ac, 0x06d1, 0x0101f600]);
});

test("every combination presses known keys, Ctrl-Alt-Del among them", () => {
  for (const { label, keys } of COMBINATIONS) assert.ok(label && keys.every((key) => key.keysym > 0 && key.code), label);
  assert.deepEqual(COMBINATIONS[0].keys.map((key) => key.code), ["ControlLeft", "AltLeft", "Delete"]);
  assert.equal(COMBINATIONS.find((each) => each.label === "Ctrl-Alt-F7").keys[2].keysym, 0xffc4);
});

test("an on-screen keyboard's edits become backspaces and text", () => {
  assert.deepEqual(fieldChange("___", "___ls"), { backspaces: 0, text: "ls" });
  assert.deepEqual(fieldChange("___ls", "__"), { backspaces: 3, text: "" });
  assert.deepEqual(fieldChange("___helo", "___hello "), { backspaces: 1, text: "lo " });
});

test("typing presses in order, tells progress and stops when asked", async () => {
  const pressed = [];
  const done = await typeText("aB", { press: (keys) => pressed.push(keys.map((key) => key.keysym)), paceMs: 0 });
  assert.equal(done, 2);
  assert.deepEqual(pressed, [[0x61], [XK.Shift, 0x42]]);
  const stop = new AbortController();
  const early = await typeText("abc", { press: () => stop.abort(), signal: stop.signal, paceMs: 0 });
  assert.equal(early, 1);
});

test("control messages are taken only when they are whole", () => {
  assert.deepEqual(parseControl('{"type":"slots","in_use":3,"limit":40}'), { type: "slots", in_use: 3, limit: 40 });
  assert.equal(parseControl('{"type":"slots","in_use":"3","limit":40}'), null);
  for (const text of ["", "null", "[]", '{"type":"toString"}', '{"type":"idle"}', "{"]) assert.equal(parseControl(text), null, text);
});

test("secrets travel in the subprotocols beside binary", () => {
  assert.deepEqual(subprotocols("resume", "x"), ["binary", "cloudops.resume.x", "cloudops.control.v1"]);
});

test("a move says which VM goes where", () => {
  assert.equal(movingTitle("web-7", "web-7 is moving to kvm-02."), "web-7 is moving to kvm-02 …");
  assert.equal(movingTitle("web-7", TABLE[4431].text), "web-7 is moving to another host …");
});

test("close codes become the server's words, its own sentence first", () => {
  assert.equal(explain(TABLE, 4431).text, "The VM is moving to another host.");
  assert.equal(explain(TABLE, 4431, "Moving to kvm-02.").text, "Moving to kvm-02.");
  assert.ok(explain(TABLE, 1006).resumable);
  assert.ok(!explain(TABLE, 1000).resumable);
  assert.match(explain(TABLE, 4999).text, /4999/);
});

test("a refusal before the picture belongs to the step it stopped", () => {
  assert.equal(failedStep("line_lost", false), "server");
  assert.equal(failedStep("secret", true), "slot");
  assert.equal(failedStep("unavailable", true), "server");
  assert.equal(failedStep("guest_unreachable", true), "guest");
});

test("while resuming, what may pass is tried again and what is final is not", () => {
  assert.ok(mayRetry(explain(TABLE, 4434)));
  assert.ok(mayRetry(explain(TABLE, 1006)));
  assert.ok(!mayRetry(explain(TABLE, 4401)));
});

test("any refused answer is a problem with words", () => {
  const plain = asProblem(502, null);
  assert.equal(plain.code, "http-502");
  assert.ok(plain.title && plain.remedy);
  assert.equal(asProblem(409, { code: "console-limit", title: "Full", retry_after_seconds: 7 }, "9").retryAfterSeconds, 7);
});
