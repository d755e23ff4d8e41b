// Newline-delimited JSON, as it streams in.

/** The objects of a ReadableStream of bytes, one for each line, as soon as its end is there. */
export async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) if (part) yield JSON.parse(part);
    }
  } finally {
    // Whoever stops reading stops the work behind it.
    await reader.cancel().catch(() => {});
  }
  if (rest) yield JSON.parse(rest);
}
