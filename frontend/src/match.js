/** How well `text` answers `query` (0: not at all): whole words first, then beginnings, then letters in order. */
export function score(query, text) {
  const wanted = query.trim().toLowerCase();
  const having = text.toLowerCase();
  if (!wanted) return 1;
  if (having === wanted) return 100;
  if (having.startsWith(wanted)) return 80 - having.length / 100;
  const at = having.indexOf(wanted);
  if (at > 0) return (/[\s\-_.:/]/.test(having[at - 1]) ? 60 : 40) - having.length / 100;
  let index = 0;
  for (const letter of wanted) {
    index = having.indexOf(letter, index) + 1;
    if (!index) return 0;
  }
  return 10 - having.length / 100;
}
