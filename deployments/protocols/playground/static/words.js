// Numbers as the page writes them.

/** A probability in per cent. The ends are not rounded into certainties. */
export function percent(probability) {
  if (probability > 0.9995) return "> 99.9 %";
  if (probability < 0.0005) return "< 0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  return `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;
}

/** "1 picture", "2 pictures". */
export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** "a, b and c". */
export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
