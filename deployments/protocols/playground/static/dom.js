// Elements by their parts. Text only ever becomes text: the page's policy lets no script make markup of it.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element with these properties; names that begin with aria- or data-, and role, become attributes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$)/.test(key)) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** An SVG element with these attributes. */
export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A part of a bar, `share` of the whole long and `offset` of it from the start; both from 0 to 1. */
export function bar(className, share, offset = 0) {
  const made = element("span", { className: `fill ${className}` });
  // Of the object model, which the policy allows; a style attribute it would not.
  made.style.width = `${100 * share}%`;
  made.style.marginLeft = `${100 * offset}%`;
  return element("span", { className: "track", "aria-hidden": "true" }, made);
}

/** Says it to those who listen to the page, once, without moving the focus. */
export function announce(sentence) {
  byId("announcer").textContent = sentence;
}

export function failure(error) {
  return element("p", { className: "failure", role: "alert" }, sentenceOf(error));
}

/** What went wrong, in words: refusals bring their own, and anything else is a fault of the page. */
export function sentenceOf(error) {
  return error.name === "Refusal" ? error.message : `The page failed: ${error.message}`;
}
