// What one browser remembers for one person. Storage may be forbidden: then nothing is remembered.
export function load(key) {
  try {
    return localStorage.getItem(`cloudops:${key}`);
  } catch {
    return null;
  }
}

export function save(key, value) {
  try {
    if (value === null) localStorage.removeItem(`cloudops:${key}`);
    else localStorage.setItem(`cloudops:${key}`, value);
  } catch {
    // not remembered
  }
}
