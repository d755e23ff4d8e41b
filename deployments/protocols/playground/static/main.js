// The playground: what is asked for, and where its answer is shown.
//
//   sources, drawing --files--> ask --target, top k (chooser)--> service --> answer, waterfall, heat   for one picture
//                                                                        --> grid                      for several
//
// Whatever is asked takes the place of what was asked before, whose requests are given up.

import { compared, failedPanel, panel, pending, spoken } from "./answer.js";
import { onChange, refresh, targets, topK } from "./chooser.js";
import { codeTabs, showCode } from "./code.js";
import { drawingBoard } from "./drawing.js";
import { announce, byId, element, failure, sentenceOf } from "./dom.js";
import { askForAll } from "./grid.js";
import { hideHeat, showHeat } from "./heat.js";
import { startLive } from "./live.js";
import { showPicture } from "./picture.js";
import { classify, explain, maxImages, useKey } from "./service.js";
import { listen } from "./sources.js";

// Models load within seconds or minutes.
const READY_AGAIN_MS = 3000;

let files = [];
let current = new AbortController();

/** Asks for these from now on. `isDrawn`: the picture is on the drawing board, which stays. */
function take(taken, isDrawn = false) {
  files = taken;
  if (!isDrawn) board(false);
  ask(isDrawn);
}

function ask(isDrawn = !byId("paper").hidden) {
  current.abort();
  current = new AbortController();
  hideHeat();
  if (!files.length || !targets().length) return;
  if (files.length === 1) askForOne(files[0], current.signal, isDrawn);
  else askForSeveral(current.signal);
}

async function askForOne(file, signal, isDrawn) {
  if (!isDrawn) showPicture(file);
  const asked = targets();
  byId("panels").replaceChildren(...asked.map(pending));
  const answers = await Promise.all(asked.map((target, place) => fillPanel(file, target, place, signal)));
  const known = answers.filter(Boolean);
  if (signal.aborted || !known.length) return;
  const verdict = known.length === 2 ? [compared(known)] : [];
  if (verdict.length) byId("panels").append(element("p", { className: "compared" }, ...verdict));
  announce([...known.map(spoken), ...verdict].join(" "));
}

/** The answer, or null if there is none; its panel says why. */
async function fillPanel(file, target, place, signal) {
  const fill = (made) => { if (!signal.aborted) byId("panels").children[place].replaceWith(made); };
  try {
    const answered = await classify(file, target, topK(), signal);
    fill(panel(target, answered, explainButton(file, { model: answered.answer.model, version: String(answered.answer.version) }, signal)));
    return answered.answer;
  } catch (error) {
    fill(failedPanel(target, error));
    if (error.status === 401) askForKey();
    return null;
  }
}

function explainButton(file, target, signal) {
  const said = element("div", { className: "hint" });
  const button = element("button", { type: "button", className: "explain" }, "Show what it looked at");
  button.addEventListener("click", async () => {
    button.disabled = true;
    said.replaceChildren("Looking … The first time, the service has to load what it takes.");
    try {
      const explained = await explain(file, target, signal);
      said.replaceChildren();
      if (!byId("paper").hidden) await leaveBoard(file);
      announce(showHeat(explained));
    } catch (error) {
      said.replaceChildren(...(signal.aborted ? [] : [failure(error)]));
    } finally {
      button.disabled = false;
    }
  });
  return element("div", {}, button, said);
}

async function askForSeveral(signal) {
  showPicture(null);
  byId("panels").replaceChildren(element("p", { className: "hint" }, "The answers are below, one for each picture."));
  const [target] = targets();
  try {
    const most = await maxImages(target.model);
    await askForAll(files, { target, topK: 1, maxImages: most, signal }, (file) => take([file]));
  } catch (error) {
    if (!signal.aborted) byId("panels").replaceChildren(failure(error));
  }
}

/** Opens or closes the drawing board. */
function board(isOpen) {
  for (const id of ["paper", "drawing"]) byId(id).hidden = !isOpen;
  byId("draw").setAttribute("aria-expanded", String(isOpen));
  byId("draw").textContent = isOpen ? "Stop drawing" : "Draw one";
  byId("stage").classList.toggle("drawing", isOpen);
}

async function leaveBoard(file) {
  board(false);
  await showPicture(file);
}

function openBoard() {
  const isOpen = byId("paper").hidden;
  board(isOpen);
  showPicture(isOpen ? null : (files.length === 1 ? files[0] : null));
  if (!isOpen) return;
  byId("invitation").hidden = true;
  hideHeat();
  byId("paper").focus();
}

function askForKey() {
  byId("access").open = true;
  byId("key").focus();
}

/** Learns which models there are, with the key that is there now. */
async function begin() {
  try {
    await refresh();
    const isReady = targets().length > 0;
    const hint = isReady ? "Give it a picture, and the answer stands here." : "No model is ready yet; they are asked again soon.";
    byId("panels").replaceChildren(element("p", { className: "hint" }, hint));
    if (!isReady) setTimeout(begin, READY_AGAIN_MS);
    showCode();
    startLive();
    ask();
  } catch (error) {
    byId("panels").replaceChildren(failure(error));
    if (error.status === 401) askForKey();
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key-said").textContent = "The key is used from now on, until you close or reload this tab.";
  begin();
});
byId("draw").addEventListener("click", openBoard);
addEventListener("unhandledrejection", (event) => announce(sentenceOf(event.reason)));
onChange(() => {
  showCode();
  ask();
});
listen(take);
drawingBoard((file) => take([file], true));
codeTabs();
begin();
