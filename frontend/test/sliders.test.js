import assert from "node:assert/strict";
import test from "node:test";
import { placed, share } from "../src/sliders.js";

test("a value's place is its share of the way, held within the slider", () => {
  assert.equal(share(512, 256, 768), 50);
  assert.equal(share(100, 256, 768), 0);
  assert.equal(share(4096, 256, 768), 100);
  assert.equal(share(5, 5, 5), 0);
});

test("marks come in their order, and labels that would run into each other go to the second line", () => {
  const marks = placed([{ at: 1500, label: "live ceiling", ceiling: true }, { at: 1026, label: "now" }, { at: 1040, label: "wanted" }], 256, 2048);
  assert.deepEqual(marks.map((mark) => [mark.label, mark.line]), [["now", 0], ["wanted", 1], ["live ceiling", 0]]);
  assert.ok(marks[2].ceiling && marks[0].x < marks[2].x);
});

test("marks that the slider does not reach are left out", () => {
  assert.deepEqual(placed([{ at: 64, label: "now" }, { at: 8192, label: "live ceiling" }], 256, 2048), []);
});
