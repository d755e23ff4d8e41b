// The picture as the browser sees it, on a canvas: an <img> of a local file would need a weaker policy.

import { byId } from "./dom.js";

// Pixels of the longer side: sharp on a dense display at the size of the stage, and no more memory than that.
const PREVIEW_SIDE = 1024;
const THUMBNAIL_SIDE = 256;

/** Draws the file into the canvas, upright as its EXIF orientation has it. False if the browser cannot read it. */
async function paint(canvas, file, longestSide) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return false;
  }
  const scale = Math.min(1, longestSide / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return true;
}

export const thumbnail = (canvas, file) => paint(canvas, file, THUMBNAIL_SIDE);

/** The one picture in question, on the stage; null takes it away. */
export async function showPicture(file) {
  const canvas = byId("preview");
  const isShown = file !== null && (await paint(canvas, file, PREVIEW_SIDE));
  canvas.parentElement.hidden = !isShown;
  canvas.setAttribute("aria-label", isShown ? `The picture ${file.name}` : "No picture");
  byId("invitation").hidden = isShown;
  byId("picture-said").textContent = file === null ? "" : described(file, isShown);
}

function described(file, isShown) {
  const size = file.size < 1024 ** 2 ? `${Math.ceil(file.size / 1024)} KiB` : `${(file.size / 1024 ** 2).toFixed(1)} MiB`;
  return `${file.name}, ${size}${isShown ? "" : "; this browser cannot show it, but the service may read it"}`;
}
