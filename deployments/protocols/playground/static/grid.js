// Several pictures at once: a tile for each, filled as the answers stream in.

import { announce, bar, byId, element, sentenceOf } from "./dom.js";
import { thumbnail } from "./picture.js";
import { classifyEach } from "./service.js";
import { counted, percent } from "./words.js";

// Tiles that a page scrolls through well; whoever has more has a program.
const MOST_PICTURES = 256;
// Of one request, below the 10 MiB that a service accepts by default. A picture that is larger goes alone.
const MOST_BYTES = 8 * 2 ** 20;

/** Asks for all `files`, in as many requests as it takes. `pick(file)` is called for the tile that the user opens. */
export async function askForAll(files, { target, topK, maxImages, signal }, pick) {
  const taken = files.slice(0, MOST_PICTURES);
  const tiles = taken.map((file) => tile(file, pick));
  const progress = { answered: 0, failed: 0, of: taken.length, left: files.length - taken.length };
  byId("several").hidden = false;
  byId("grid").replaceChildren(...tiles.map((each) => each.item));
  say(progress);
  paintAll(tiles, signal);
  for (const pack of packs(tiles, maxImages)) {
    await fillPack(pack, { target, topK, signal }, progress);
    if (signal.aborted) return;
  }
  announce(`${counted(progress.answered, "picture")} answered, ${progress.failed} refused.`);
}

/** One after another: decoded, a photograph takes a hundred times its thumbnail's memory. */
async function paintAll(tiles, signal) {
  for (const { canvas, file } of tiles) {
    if (signal.aborted) return;
    await thumbnail(canvas, file);
  }
}

async function fillPack(pack, { target, topK, signal }, progress) {
  const waiting = new Set(pack);
  const settle = (each, fill) => {
    waiting.delete(each);
    fill(each);
    say(progress);
  };
  try {
    for await (const { index, predictions, error } of classifyEach(pack.map(({ file }) => file), target, topK, signal)) {
      settle(pack[index], (each) => (error === undefined ? answered(each, predictions, progress) : refused(each, error, progress)));
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    // Of the request as a whole, so of everything that has no answer of its own.
    for (const each of [...waiting]) settle(each, () => refused(each, sentenceOf(error), progress));
  }
}

/** In the order given, each at most `maxImages` and MOST_BYTES. */
export function packs(tiles, maxImages) {
  const made = [];
  let bytes = Infinity;
  for (const each of tiles) {
    if (bytes + each.file.size > MOST_BYTES || made.at(-1).length >= maxImages) {
      made.push([]);
      bytes = 0;
    }
    made.at(-1).push(each);
    bytes += each.file.size;
  }
  return made;
}

function tile(file, pick) {
  const canvas = element("canvas", { width: 1, height: 1, "aria-hidden": "true" });
  const verdict = element("span", { className: "verdict hint" }, "waiting …");
  const button = element("button", { type: "button", className: "tile", title: `Open ${file.name} by itself` }, canvas, element("span", { className: "name" }, file.name), verdict);
  button.addEventListener("click", () => pick(file));
  return { file, canvas, verdict, item: element("li", {}, button) };
}

function answered({ verdict }, [best], progress) {
  progress.answered += 1;
  verdict.className = "verdict";
  verdict.replaceChildren(element("strong", {}, best.label), " ", percent(best.probability), bar("probability", best.probability));
}

function refused({ verdict }, sentence, progress) {
  progress.failed += 1;
  verdict.className = "verdict failure";
  verdict.replaceChildren(sentence);
}

function say({ answered, failed, of, left }) {
  const refusals = failed ? `, ${failed} refused` : "";
  const rest = left ? ` The ${left} beyond the first ${of} were not sent.` : "";
  byId("several-said").textContent = `${answered} of ${of} answered${refusals}.${rest}`;
}
