/** Seconds in words, as the server's `duration_words`: at most two units, rounded down. */
export function durationWords(seconds) {
  const total = Math.max(0, Math.floor(seconds));
  if (total < 60) return `${total} s`;
  const minutes = Math.floor(total / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 && days < 10 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/** Seconds as m:ss or h:mm:ss. */
export function clock(seconds) {
  const total = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor((total % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
}

/** A moment relative to now: "2 min ago", "in 5 s", "now"; style "span" leaves the direction out. */
export function relative(then, now, style = "ago") {
  const seconds = (now - then) / 1000;
  const words = durationWords(Math.abs(seconds));
  if (style === "span") return words;
  if (seconds >= 5) return `${words} ago`;
  return seconds > -5 ? "now" : `in ${words}`;
}
