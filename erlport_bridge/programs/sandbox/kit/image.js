// Writes the image of the memory of Pyodide after its start, with what programs often import, to the file of
// the argument, which is there, and after it its SHA-256.

import published from "pyodide-as-published";

const IMPORTED = [
  "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "inspect", "io",
  "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing",
];

const pyodide = await published.loadPyodide({ _makeSnapshot: true });
for (const name of IMPORTED) pyodide.runPython(`__import__("${name}")`);
// Each start puts it there.
pyodide.runPython("__import__('sys').path.remove('')");
const image = pyodide.makeMemorySnapshot();

// Worth something only if Pyodide starts from it.
const started = await published.loadPyodide({ _loadSnapshot: image });
if (started.runPython("6 * 7") !== 42) throw new Error("Pyodide does not start from its image");

const file = Deno.openSync(Deno.args[0], { write: true });
for (const part of [image, new Uint8Array(await crypto.subtle.digest("SHA-256", image))]) {
  for (let written = 0; written < part.length; ) written += file.writeSync(part.subarray(written));
}
file.syncSync();
