/** Milliseconds to wait before try `attempt` (0, 1, 2, …): doubles up to `most`, with jitter so that pages do not return in step. */
export function backoff(attempt, { first = 500, most = 15000, random = Math.random } = {}) {
  const full = Math.min(most, first * 2 ** Math.min(attempt, 30));
  return Math.round(full * (0.6 + 0.4 * random()));
}
