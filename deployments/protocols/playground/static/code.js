// The tabs with the same request as code (w3.org/WAI/ARIA/apg/patterns/tabs), and the button that copies it.

import { chosenModel, targets, topK } from "./chooser.js";
import { announce, byId, element } from "./dom.js";
import { SNIPPETS } from "./snippets.js";

const NAMES = Object.keys(SNIPPETS);
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

let chosen = NAMES[0];

export function codeTabs() {
  byId("tabs").replaceChildren(...NAMES.map(tab));
  byId("copy").addEventListener("click", copy);
  choose(chosen);
}

/** Writes the snippet anew, for what is chosen now. */
export function showCode() {
  const [target] = targets();
  byId("snippet").textContent = target === undefined ? "No model is ready." : SNIPPETS[chosen](target, topK(), chosenModel());
}

function tab(name) {
  const made = element("button", { type: "button", role: "tab", id: idOf(name), "aria-controls": "snippet-panel" }, name);
  made.addEventListener("click", () => choose(name));
  made.addEventListener("keydown", (event) => {
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    choose(NAMES.at((NAMES.indexOf(name) + STEPS[event.key]) % NAMES.length));
    byId(idOf(chosen)).focus();
  });
  return made;
}

const idOf = (name) => `tab-${name.toLowerCase().replace(" ", "-")}`;

function choose(name) {
  chosen = name;
  for (const each of NAMES) {
    const made = byId(idOf(each));
    made.setAttribute("aria-selected", String(each === name));
    made.tabIndex = each === name ? 0 : -1;
  }
  byId("snippet-panel").setAttribute("aria-labelledby", idOf(name));
  showCode();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(byId("snippet").textContent);
    announce("Copied.");
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 2000);
  } catch {
    // Browsers give the clipboard to pages of https and of this machine alone.
    getSelection().selectAllChildren(byId("snippet"));
    announce("The browser does not let the page copy; the code is selected.");
  }
}
