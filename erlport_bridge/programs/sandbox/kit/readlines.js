// The one function of Deno's standard library that DSPy's runner imports. Ours, so that the sandbox needs no web
// access: only the package registries carry the rest (import_map.json puts this file in the library's place).

import { lockDown } from "./lockdown.js";

/** Yields the lines of a Deno reader (`read(Uint8Array) -> Promise<number | null>`), without their ends. */
export async function* readLines(reader) {
  lockDown();
  const decoder = new TextDecoder();
  const chunk = new Uint8Array(65536);
  // Pieces of a line that is still open: joined once, so that a line of many chunks stays linear.
  let pieces = [];
  for (let count; (count = await reader.read(chunk)) !== null; ) {
    const lines = decoder.decode(chunk.subarray(0, count), { stream: true }).split("\n");
    for (const last of lines.slice(0, -1)) {
      yield [...pieces, last].join("").replace(/\r$/, "");
      pieces = [];
    }
    pieces.push(lines[lines.length - 1]);
  }
  const rest = pieces.join("") + decoder.decode();
  if (rest !== "") yield rest;
}
