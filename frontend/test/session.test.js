import assert from "node:assert/strict";
import test from "node:test";
import { Session } from "../src/console/session.js";

globalThis.location = new URL("https://cloudops.example/console/1/");

const REASONS = {
  4431: { reason: "vm_moved", text: "The VM is moving to another host.", resumable: true },
  4432: { reason: "host_lost", text: "The VM's host cannot be reached.", resumable: false },
  4430: { reason: "vm_stopped", text: "The VM stopped.", resumable: false },
  4438: { reason: "platform_limit", text: "The platform lets no more consoles be open on this VM.", resumable: false },
};
const HELLO = { type: "hello", session: "1", resume: "again", view_only: false };

/** A session whose screens are played by the test: what was shown, and the screens in order. */
function played() {
  const shown = [];
  const screens = [];
  const shows = new Proxy({}, { get: (_, name) => (...values) => shown.push([name, ...values]) });
  const facts = { websocketUrl: "/ws/console/", reasons: REASONS };
  const session = new Session(facts, shows, (values) => {
    const ended = [];
    const screen = { values, ended, say() {}, close: () => ended.push("close"), abandon: () => ended.push("abandon") };
    screens.push(screen);
    return screen;
  });
  const close = (screen, code, more = {}) => screen.values.hears.closed({ code, reason: "", opened: true, pictured: false, garbled: false, asked: false, canvas: null, ...more });
  return { session, screens, close, facts, said: (name) => shown.filter(([each]) => each === name) };
}

test("a console opened in the middle of a move says so and tries again", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  const { session, screens, close, said } = played();
  session.join("once");
  screens[0].values.hears.opened();
  screens[0].values.hears.control(HELLO);
  close(screens[0], 4431, { reason: "web-7 is moving to kvm-02." });
  assert.equal(said("failed").length, 0);
  assert.equal(said("resuming")[0][1].entry.text, "web-7 is moving to kvm-02.");
  context.mock.timers.tick(1000);
  assert.equal(screens.length, 2);
  assert.deepEqual([screens[1].values.kind, screens[1].values.secret], ["resume", "again"]);
  close(screens[1], 4432); // its new host is busy
  context.mock.timers.tick(3000);
  screens[2].values.hears.opened();
  screens[2].values.hears.picture();
  assert.equal(said("live").length, 1);
  session.leave({ reason: "user_closed", text: "" });
});

test("a stopped VM is not waited for", () => {
  const { session, screens, close, said } = played();
  session.join("once");
  screens[0].values.hears.control(HELLO);
  close(screens[0], 4430);
  assert.equal(said("failed").length, 1);
  session.leave({ reason: "user_closed", text: "" });
});

test("a try that brings no picture in time is given up, the console is not", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  const { session, screens, close, said } = played();
  session.join("once");
  screens[0].values.hears.opened();
  screens[0].values.hears.control(HELLO);
  screens[0].values.hears.picture();
  close(screens[0], 4431, { pictured: true });
  context.mock.timers.tick(1);
  screens[1].values.hears.opened();
  context.mock.timers.tick(20_000);
  assert.deepEqual(screens[1].ended, ["abandon"]);
  close(screens[1], 1006, { asked: true });
  context.mock.timers.tick(3000);
  assert.equal(screens.length, 3);
  assert.equal(said("ended").length, 0);
  session.leave({ reason: "user_closed", text: "" });
});

test("a first try that brings no picture gives its slot back", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  const { session, screens } = played();
  session.join("once");
  context.mock.timers.tick(15_000);
  assert.deepEqual(screens[0].ended, ["close"]);
  session.leave({ reason: "user_closed", text: "" });
});

test("at the platform's limit the server is asked once who holds the slots, and no more than once", async () => {
  const { session, screens, close, said, facts } = played();
  facts.openUrl = "/api/v1/vms/1/console-sessions/";
  let asked = 0;
  globalThis.fetch = async () => {
    asked += 1;
    return new Response(JSON.stringify({ secret: "once", websocket_url: "/ws/console/" }), { status: 201, headers: { "Content-Type": "application/json" } });
  };
  globalThis.document ??= { body: { dataset: {} } };
  await session.open();
  assert.equal(screens.length, 1);
  close(screens[0], 4438, { reason: "3 of 3 console slots of VM web-7 are taken." });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(asked, 2);
  close(screens[1], 4438, { reason: "3 of 3 console slots of VM web-7 are taken." });
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(asked, 2);
  assert.equal(said("failed")[0][1], "slot");
  assert.equal(said("failed")[0][2].title, "3 of 3 console slots of VM web-7 are taken.");
  session.leave({ reason: "user_closed", text: "" });
});
