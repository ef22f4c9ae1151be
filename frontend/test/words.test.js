import assert from "node:assert/strict";
import test from "node:test";
import { backoff } from "../src/backoff.js";
import { score } from "../src/match.js";
import { clock, durationWords, relative } from "../src/words.js";

test("durations use at most two units, as the server's do", () => {
  const words = [[0, "0 s"], [59.9, "59 s"], [60, "1 min"], [3599, "59 min"], [3600, "1 h"], [7500, "2 h 5 min"], [86400, "1 d"],
    [93600, "1 d 2 h"], [11 * 86400 + 3600, "11 d"], [-5, "0 s"]];
  for (const [seconds, expected] of words) assert.equal(durationWords(seconds), expected);
});

test("a clock shows hours only when there are some", () => {
  assert.equal(clock(58), "0:58");
  assert.equal(clock(581), "9:41");
  assert.equal(clock(3661), "1:01:01");
});

test("relative times tell past, present and future", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  assert.equal(relative(now - 120_000, now), "2 min ago");
  assert.equal(relative(now - 1000, now), "now");
  assert.equal(relative(now + 30_000, now), "in 30 s");
  assert.equal(relative(now - 120_000, now, "span"), "2 min");
});

test("waiting doubles, stops at the most, and spreads", () => {
  const least = (attempt) => backoff(attempt, { first: 100, most: 1000, random: () => 0 });
  const most = (attempt) => backoff(attempt, { first: 100, most: 1000, random: () => 1 });
  assert.deepEqual([0, 1, 2, 3, 4, 60].map(most), [100, 200, 400, 800, 1000, 1000]);
  assert.deepEqual([0, 4].map(least), [60, 600]);
});

test("the palette prefers beginnings to middles to scattered letters", () => {
  const ranks = ["web-7", "my-web", "cobweb", "w-e-b"].map((text) => score("web", text));
  assert.deepEqual(ranks, [...ranks].sort((a, b) => b - a));
  assert.ok(ranks.every((rank) => rank > 0));
  assert.equal(score("xyz", "web-7"), 0);
});
