// Where pictures come from: dropped, pasted, chosen, photographed, or one of the samples. Each gives a list of files.

import { byId, element } from "./dom.js";

const SAMPLES = ["heart", "star", "arrow", "crescent", "hexagon", "cross"];
const FOLDER = new URL("./samples/", import.meta.url);

/** Calls `take(files)` for each picture, or several, that the user gives. */
export function listen(take) {
  const given = (files) => { if (files.length) take([...files]); };
  for (const id of ["choose", "photograph"]) chosen(byId(id), given);
  dropped(given);
  pasted(given);
  byId("samples").replaceChildren(...SAMPLES.map((name) => element("li", {}, sample(name, given))));
}

function chosen(input, given) {
  input.addEventListener("change", () => {
    given([...input.files]);
    // The same file again is a change, too.
    input.value = "";
  });
}

function dropped(given) {
  const stage = byId("stage");
  // Anywhere on the page: a browser would leave it for a file that misses the stage.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) stage.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    given(event.dataTransfer?.files ?? []);
  });
}

function pasted(given) {
  addEventListener("paste", (event) => given(event.clipboardData?.files ?? []));
}

function sample(name, given) {
  const picture = element("img", { src: new URL(`${name}.jpg`, FOLDER).href, alt: name, width: 72, height: 72 });
  const button = element("button", { type: "button", className: "sample" }, picture);
  button.addEventListener("click", async () => {
    const content = await (await fetch(picture.src)).blob();
    given([new File([content], `${name}.jpg`, { type: content.type })]);
  });
  return button;
}
