// Stands in the place of Pyodide for DSPy's runner: starts it from the image of the memory of one that has started, in a
// tenth of the time. `image.py` has the image made by `image.js`, and names it in the last argument.

import published from "pyodide-as-published";

const NAMED = "--dspex-image=";
const DIGEST_BYTES = 32;

// What must not be the same in each sandbox.
const RENEW = `
import logging, os, random, time
random.seed()
logging._startTime = time.time_ns()
os.environ.update(RENEWED)
del logging, os, random, time, RENEWED
`;

async function fromImage(image, options) {
  const pyodide = await published.loadPyodide({ ...options, _loadSnapshot: image.subarray(0, -DIGEST_BYTES) });
  // Pyodide has copied it, and would keep it.
  image.buffer.transfer(0);
  // As Emscripten sets them at a start.
  const renewed = { LANG: `${navigator.language.replace("-", "_")}.UTF-8`, _: process.argv[1] };
  pyodide.globals.set("RENEWED", pyodide.toPy(renewed));
  pyodide.runPython(RENEW);
  return pyodide;
}

function imageOf(path) {
  try {
    // The reader of a pipe would wait for a writer.
    return Deno.statSync(path).isFile ? Deno.readFileSync(path) : null;
  } catch {
    return null; // it has been removed
  }
}

async function loadPyodide(options) {
  const named = Deno.args.find((arg) => arg.startsWith(NAMED));
  const image = named ? imageOf(named.slice(NAMED.length)) : null;
  return image ? fromImage(image, options) : published.loadPyodide(options);
}

export default { ...published, loadPyodide };
