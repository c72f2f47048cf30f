// Stands in the place of Pyodide for DSPy's runner: starts it from the image of the memory of one that has started, in a
// tenth of the time. `image.py` has the image made by `image.js`, and names it in the last argument.

import published from "pyodide-as-published";

const NAMED = "--dspex-image=";
const DIGEST_BYTES = 32;

// What must not be the same in each sandbox.
const RENEW = `
import logging, random, time
random.seed()
logging._startTime = time.time_ns()
del logging, random, time
`;

async function fromImage(image, options) {
  const pyodide = await published.loadPyodide({ ...options, _loadSnapshot: image.subarray(0, -DIGEST_BYTES) });
  // Pyodide has copied it, and would keep it.
  image.buffer.transfer(0);
  pyodide.runPython(RENEW);
  return pyodide;
}

function imageOf(path) {
  try {
    return Deno.readFileSync(path);
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
