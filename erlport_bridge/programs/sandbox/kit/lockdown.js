// Takes away from the guest what starts threads or processes, keeps data on the disk, or reaches inside Deno.
// `readLines` calls this once the runner has set up everything, before the first code runs. The guest may change every
// built-in later, so what runs after that uses only what was taken here.

const { construct } = Reflect;
const includes = Function.prototype.call.bind(String.prototype.includes);

const DENO_NAMES = [
  "ChildProcess", "Command", "Process", "kill", "run", "spawn", "spawnAndWait", "spawnAndWaitSync",
  "UnsafeCallback", "UnsafeFnPointer", "UnsafePointer", "UnsafePointerView", "dlopen",
];
const PROCESS_NAMES = ["_eval", "_kill", "binding", "dlopen", "getBuiltinModule", "kill", "mainModule"];
const GLOBAL_NAMES = [
  "Worker", "SharedWorker", "SharedArrayBuffer", "BroadcastChannel", "nodeBootstrap",
  "Cache", "CacheStorage", "Storage", "caches", "localStorage", "sessionStorage",
];

function remove(owner, names) {
  for (const name of names) {
    Reflect.deleteProperty(owner, name);
    // A name that a prototype has, or that cannot be deleted.
    if (name in owner) Object.defineProperty(owner, name, { value: undefined });
  }
}

/** Refuses source with the word `import`: modules of Node could be loaded by it, such as `node:worker_threads`. */
function checkSource(source) {
  if (includes(source, "import")) throw new EvalError("the sandbox imports no modules of JavaScript");
}

/** Replaces a constructor of functions, also as what each function calls its constructor. */
function guardConstructor(original) {
  const guarded = function (...parts) {
    for (let index = 0; index < parts.length; index++) {
      parts[index] = `${parts[index]}`;
      checkSource(parts[index]);
    }
    return construct(original, parts);
  };
  Object.defineProperty(guarded, "prototype", { value: original.prototype });
  Object.defineProperty(original.prototype, "constructor", { value: guarded });
  return guarded;
}

function guardEvaluation() {
  const evaluate = globalThis.eval;
  globalThis.eval = function (source) {
    if (typeof source !== "string") return source;
    checkSource(source);
    return evaluate(source);
  };
  const samples = [async () => {}, function* () {}, async function* () {}];
  for (const sample of samples) guardConstructor(Object.getPrototypeOf(sample).constructor);
  globalThis.Function = guardConstructor(Function);
}

/** Refuses a timer of text, which Deno would evaluate. */
function guardTimers() {
  for (const name of ["setTimeout", "setInterval"]) {
    const start = globalThis[name];
    globalThis[name] = function (callback, delay, ...values) {
      if (typeof callback !== "function") throw new TypeError("expected a function as the callback of a timer");
      return start(callback, delay, ...values);
    };
  }
}

export function lockDown() {
  remove(Deno, [...DENO_NAMES, Deno.internal]);
  remove(globalThis.process, PROCESS_NAMES);
  remove(globalThis, GLOBAL_NAMES);
  remove(Navigator.prototype, ["gpu"]);
  guardEvaluation();
  guardTimers();
}
