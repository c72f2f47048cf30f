"use strict";
(() => {
  const ROW = 26;
  // Rows beyond the visible ones that are kept, so that scrolling shows no gap.
  const SPARE = 12;
  // A trace with more spans begins with its items collapsed.
  const MANY = 200;
  const KINDS = ["call", "queue", "python", "item", "module", "model", "tool", "sandbox", "store", "optimizer"];
  const TEXTS = ["messages", "reply", "arguments", "result", "code", "output", "retries"];

  const at = (id) => document.getElementById(id);
  const trace = JSON.parse(at("trace").textContent);

  // Every text of the trace enters the page by this function, which makes no markup of it.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "onclick") element.addEventListener("click", value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
    return element;
  };

  const duration = (us) => {
    if (us < 1000) return `${Math.round(us)} µs`;
    if (us < 1e6) return `${(us / 1000).toPrecision(3)} ms`;
    if (us < 6e7) return `${(us / 1e6).toPrecision(3)} s`;
    return `${Math.floor(us / 6e7)} min ${Math.round((us % 6e7) / 1e6)} s`;
  };
  const count = (number) => number.toLocaleString("en-US");
  const dollars = (cost) => (cost === 0 ? "$0" : cost < 0.01 ? `$${cost.toPrecision(2)}` : `$${cost.toFixed(cost < 1 ? 3 : 2)}`);
  const spent = ({ cost, isPriced }) => (isPriced ? dollars(cost) : cost ? `${dollars(cost)} and what has no known price` : "unknown");
  const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

  // The tree ----------------------------------------------------------------------------------------------------------

  const nodes = new Map(trace.spans.map((span) => [span.id, { span, children: [], around: null, isOpen: true }]));
  const roots = [];
  for (const node of nodes.values()) {
    node.around = nodes.get(node.span.parent) ?? null;
    // A trace from elsewhere may have spans that are around each other.
    const path = new Set([node]);
    for (let one = node.around; one; one = one.around) {
      if (path.has(one)) {
        node.around = null;
        break;
      }
      path.add(one);
    }
    (node.around ? node.around.children : roots).push(node);
  }
  const byStart = (one, other) => one.span.start_us - other.span.start_us;
  roots.sort(byStart);
  const inOrder = [];
  for (const stack = [...roots].reverse(); stack.length; ) {
    const node = stack.pop();
    inOrder.push(node);
    node.children.sort(byStart);
    for (let index = node.children.length - 1; index >= 0; index--) stack.push(node.children[index]);
  }
  // What a span and those within it have used: the inner ones first.
  for (let index = inOrder.length - 1; index >= 0; index--) {
    const node = inOrder[index];
    const { kind, status } = node.span;
    const attributes = node.span.attributes ?? {};
    const sum = { tokens: 0, cost: 0, isPriced: true, requests: 0, hits: 0, errors: status === "error" ? 1 : 0 };
    if (kind === "model") {
      sum.requests = 1;
      sum.tokens = attributes.total_tokens || 0;
      sum.cost = attributes.cost || 0;
      sum.hits = attributes.cache_hit ? 1 : 0;
      sum.isPriced = !(attributes.total_tokens > 0 && (attributes.cost ?? null) === null);
    }
    for (const { sum: inner } of node.children) {
      for (const name of ["tokens", "cost", "requests", "hits", "errors"]) sum[name] += inner[name];
      sum.isPriced = sum.isPriced && inner.isPriced;
    }
    node.sum = sum;
    if (trace.spans.length > MANY && kind === "item") node.isOpen = false;
  }

  const ends = (span) => span.start_us + span.duration_us;
  const began = inOrder.reduce((least, { span }) => Math.min(least, span.start_us), Infinity);
  const ended = inOrder.reduce((most, { span }) => Math.max(most, ends(span)), -Infinity);
  const whole = inOrder.length ? { from: began, to: Math.max(ended, began + 1) } : { from: 0, to: 1 };

  // What is shown -----------------------------------------------------------------------------------------------------

  const state = { rows: [], chosen: null, view: { ...whole }, hidden: new Set(), query: "", drawn: new Map() };
  const tree = at("tree");
  const space = make("div");
  tree.append(space);

  const textOf = (node) => (node.text ??= JSON.stringify(node.span).toLowerCase());
  const isFound = (node) => !state.query || textOf(node).includes(state.query);

  // The rows, without those of hidden kinds, whose inner spans move out; a search keeps what is around what it finds.
  const arrange = () => {
    const kept = new Set();
    if (state.query) {
      for (const node of inOrder) {
        if (isFound(node)) for (let one = node; one && !kept.has(one); one = one.around) kept.add(one);
      }
    }
    const rows = [];
    for (const stack = [...roots].reverse().map((node) => [node, 0]); stack.length; ) {
      const [node, depth] = stack.pop();
      if (state.query && !kept.has(node)) continue;
      const isShown = !state.hidden.has(node.span.kind);
      if (isShown) {
        node.depth = depth;
        node.index = rows.length;
        rows.push(node);
      }
      if (node.isOpen || !isShown || state.query) {
        for (let index = node.children.length - 1; index >= 0; index--) stack.push([node.children[index], depth + (isShown ? 1 : 0)]);
      }
    }
    state.rows = rows;
    space.style.height = `${rows.length * ROW}px`;
    at("found").textContent = state.query ? plural(inOrder.filter(isFound).length, "span found", "spans found") : "";
    redraw();
  };

  const redraw = () => {
    for (const row of state.drawn.values()) row.remove();
    state.drawn.clear();
    draw();
  };

  const draw = () => {
    const first = Math.max(0, Math.floor(tree.scrollTop / ROW) - SPARE);
    const last = Math.min(state.rows.length, Math.ceil((tree.scrollTop + tree.clientHeight) / ROW) + SPARE);
    for (const [index, row] of state.drawn) {
      if (index < first || index >= last) {
        row.remove();
        state.drawn.delete(index);
      }
    }
    for (let index = first; index < last; index++) {
      if (!state.drawn.has(index)) {
        const row = rowOf(state.rows[index], index);
        state.drawn.set(index, row);
        space.append(row);
      }
    }
    if (state.chosen) tree.setAttribute("aria-activedescendant", `span-${state.chosen.index}`);
  };

  const colour = (kind) => `var(--${KINDS.includes(kind) ? kind : "other"})`;

  const rowOf = (node, index) => {
    const { span, sum, children } = node;
    const twisty = children.length ? (node.isOpen ? "▾" : "▸") : "";
    const bar = make("div", { class: "bar" });
    const { from, to } = state.view;
    bar.style.left = `${(100 * (span.start_us - from)) / (to - from)}%`;
    bar.style.width = `${(100 * span.duration_us) / (to - from)}%`;
    const failed = span.status === "error" ? " failed" : "";
    const row = make(
      "div",
      {
        class: `row${failed}${span.status === "cancelled" ? " cancelled" : ""}`,
        id: `span-${index}`,
        role: "treeitem",
        "aria-level": node.depth + 1,
        "aria-expanded": children.length ? String(node.isOpen) : null,
        "aria-selected": String(node === state.chosen),
        onclick: (event) => choose(node, { opens: event.target.classList.contains("twisty") }),
      },
      make(
        "div",
        { class: "name" },
        make("span", { class: "twisty", "aria-hidden": "true" }, twisty),
        make("span", { class: "label", title: span.name }, span.name),
        span.kind === span.name ? null : make("span", { class: "of" }, span.kind),
        span.status === "ok" ? null : make("span", { class: "mark" }, span.status === "error" ? "✕ error" : "cancelled"),
        span.attributes?.cache_hit ? make("span", { class: "of" }, "cached") : null,
        !node.isOpen && sum.errors > (failed ? 1 : 0) ? make("span", { class: "mark" }, `✕ ${sum.errors}`) : null,
      ),
      make("span", { class: "number" }, sum.tokens ? count(sum.tokens) : ""),
      make("span", { class: "number cost" }, sum.cost ? dollars(sum.cost) : ""),
      make("span", { class: "number" }, duration(span.duration_us)),
      make("div", { class: "lane" }, bar),
    );
    row.style.top = `${index * ROW}px`;
    row.style.setProperty("--depth", node.depth);
    row.style.setProperty("--of-kind", colour(span.kind));
    return row;
  };

  const STEPS = [1, 2, 5];
  const ruler = at("ruler");
  const drawRuler = () => {
    const { from, to } = state.view;
    const least = (to - from) / Math.max(2, ruler.clientWidth / 75);
    const power = 10 ** Math.floor(Math.log10(least));
    const step = (STEPS.find((one) => one * power >= least) ?? 10) * power;
    ruler.replaceChildren();
    for (let time = Math.ceil((from - whole.from) / step) * step; time <= to - whole.from; time += step) {
      const tick = make("span", {}, time < step / 2 ? "0" : duration(time));
      tick.style.left = `${(100 * (time + whole.from - from)) / (to - from)}%`;
      ruler.append(tick);
    }
  };

  const look = (from, to) => {
    const least = Math.max(1, (whole.to - whole.from) / 1e6);
    const width = Math.min(Math.max(to - from, least), whole.to - whole.from);
    const start = Math.min(Math.max(from, whole.from), whole.to - width);
    state.view = { from: start, to: start + width };
    drawRuler();
    redraw();
  };
  const zoom = (factor) => {
    const { from, to } = state.view;
    const { chosen } = state;
    const middle = chosen ? Math.min(Math.max(chosen.span.start_us + chosen.span.duration_us / 2, from), to) : (from + to) / 2;
    look(middle - (middle - from) * factor, middle + (to - middle) * factor);
  };

  // The chosen span ---------------------------------------------------------------------------------------------------

  const choose = (node, { opens = false } = {}) => {
    if (opens && node.children.length) {
      node.isOpen = !node.isOpen;
    }
    for (let around = node.around; around; around = around.around) {
      if (!around.isOpen) {
        around.isOpen = true;
        opens = true;
      }
    }
    state.chosen = node;
    if (opens) arrange();
    const top = node.index * ROW;
    if (top < tree.scrollTop) tree.scrollTop = top;
    else if (top + ROW > tree.scrollTop + tree.clientHeight) tree.scrollTop = top + ROW - tree.clientHeight;
    redraw();
    describe(node);
  };

  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
  const table = (pairs) =>
    make(
      "table",
      {},
      ...pairs.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([name, value]) => make("tr", {}, make("td", {}, name), make("td", {}, value))),
    );

  const describe = ({ span, sum, children }) => {
    const attributes = span.attributes ?? {};
    // Spans within it may run at the same time, so what is its own is what none of them covers.
    const inner = children.map(({ span: { start_us: from, duration_us } }) => [from, from + duration_us]);
    let [covered, until] = [0, -Infinity];
    for (const [from, to] of inner) {
      covered += Math.max(0, to - Math.max(from, until));
      until = Math.max(until, to);
    }
    const parts = [
      make("h2", {}, span.name),
      make("p", { class: "sub" }, `${span.kind}, ${span.status}`),
      table([
        ["begins after", duration(span.start_us - whole.from)],
        ["takes", duration(span.duration_us)],
        ["of its own", children.length ? duration(Math.max(0, span.duration_us - covered)) : null],
        ["requests to models", sum.requests > 0 && span.kind !== "model" ? count(sum.requests) : null],
        ["tokens", span.kind !== "model" && sum.tokens ? count(sum.tokens) : null],
        ["cost", span.kind !== "model" && sum.requests ? spent(sum) : null],
      ]),
    ];
    if (span.error) parts.push(make("h3", {}, "Error"), make("div", { class: "error" }, `${span.error.kind}: ${span.error.message}`));
    const own = Object.entries(attributes).filter(([name]) => !TEXTS.includes(name));
    if (own.length) parts.push(make("h3", {}, "Attributes"), table(own.map(([name, value]) => [name.replaceAll("_", " ").replace(/ us$/, ""), name.endsWith("_us") ? duration(value) : shown(value)])));
    for (const { kind, message, after_us: after } of attributes.retries ?? []) {
      parts.push(make("h3", {}, `Sent again after ${duration(after ?? 0)}`), make("div", { class: "error" }, `${kind}: ${message}`));
    }
    for (const [name, title] of [["arguments", "Arguments"], ["code", "Code"], ["output", "Output"], ["result", "Result"]]) {
      if (attributes[name] !== undefined) parts.push(make("h3", {}, title), make("pre", {}, shown(attributes[name])));
    }
    if (attributes.messages) {
      parts.push(make("h3", {}, "Prompt"));
      for (const { role, content } of attributes.messages) parts.push(make("div", { class: "role" }, role), make("pre", {}, shown(content)));
    }
    for (const reply of [attributes.reply ?? []].flat()) parts.push(make("h3", {}, "Answer"), make("pre", {}, shown(reply)));
    at("detail").replaceChildren(...parts);
    at("detail").scrollTop = 0;
  };

  const step = (by) => {
    if (!state.rows.length) return;
    const from = state.chosen && state.rows[state.chosen.index] === state.chosen ? state.chosen.index : -1;
    choose(state.rows[Math.min(Math.max(from + by, 0), state.rows.length - 1)]);
  };
  const failures = inOrder.filter(({ span }) => span.status === "error");
  const nextError = (by) => {
    if (!failures.length) return;
    const place = inOrder.indexOf(state.chosen);
    const places = failures.map((node) => inOrder.indexOf(node));
    const next = by > 0 ? places.find((one) => one > place) ?? places[0] : places.findLast((one) => one < place) ?? places.at(-1);
    state.hidden.delete(inOrder[next].span.kind);
    state.query = at("search").value = "";
    drawKinds();
    arrange();
    choose(inOrder[next]);
    tree.focus();
  };
  const openAll = (isOpen) => {
    for (const node of inOrder) node.isOpen = isOpen || node.around === null;
    if (!isOpen && state.chosen) while (state.chosen.around?.around) state.chosen = state.chosen.around;
    arrange();
    if (state.chosen) choose(state.chosen);
  };

  const KEYS = {
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    PageDown: () => step(Math.max(1, Math.floor(tree.clientHeight / ROW) - 1)),
    PageUp: () => step(-Math.max(1, Math.floor(tree.clientHeight / ROW) - 1)),
    Home: () => step(-state.rows.length),
    End: () => step(state.rows.length),
    ArrowRight: () => {
      const node = state.chosen;
      if (!node) step(1);
      else if (node.children.length && !node.isOpen) choose(node, { opens: true });
      else if (node.children.length) step(1);
    },
    ArrowLeft: () => {
      const node = state.chosen;
      if (!node) return;
      if (node.children.length && node.isOpen) choose(node, { opens: true });
      else if (node.around) choose(node.around);
    },
    Enter: () => at("detail").focus(),
  };
  const EVERYWHERE = {
    "/": () => at("search").focus(),
    "?": () => at("help").showModal(),
    e: () => nextError(1),
    E: () => nextError(-1),
    "+": () => zoom(1 / 2),
    "-": () => zoom(2),
    0: () => look(whole.from, whole.to),
    z: () => state.chosen && look(state.chosen.span.start_us - state.chosen.span.duration_us * 0.05, ends(state.chosen.span) + state.chosen.span.duration_us * 0.05),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
    if (event.key === "Escape") {
      tree.focus();
      return;
    }
    if (event.target === at("search")) {
      if (event.key !== "Enter" && event.key !== "ArrowDown") return;
      search();
      tree.focus();
      const found = state.rows.find(isFound);
      if (found) choose(found);
      event.preventDefault();
      return;
    }
    const isInTree = event.target === tree || (event.target instanceof HTMLButtonElement && event.key !== "Enter");
    const act = (isInTree && KEYS[event.key]) || EVERYWHERE[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  // The parts of the page ---------------------------------------------------------------------------------------------

  const drawKinds = () => {
    const kinds = [...new Set(inOrder.map(({ span }) => span.kind))].sort((one, other) => KINDS.indexOf(one) - KINDS.indexOf(other));
    at("kinds").replaceChildren(
      ...kinds.map((kind) => {
        const button = make(
          "button",
          {
            type: "button",
            class: "kind",
            "aria-pressed": String(!state.hidden.has(kind)),
            onclick: () => {
              if (!state.hidden.delete(kind)) state.hidden.add(kind);
              button.setAttribute("aria-pressed", String(!state.hidden.has(kind)));
              arrange();
            },
          },
          kind,
        );
        button.style.setProperty("--of-kind", colour(kind));
        return button;
      }),
    );
  };

  const summarise = () => {
    const sum = { tokens: 0, cost: 0, requests: 0, hits: 0, errors: 0, isPriced: true };
    for (const root of roots) {
      for (const name of ["tokens", "cost", "requests", "hits", "errors"]) sum[name] += root.sum[name];
      sum.isPriced = sum.isPriced && root.sum.isPriced;
    }
    const name = roots.length ? roots[0].span.name : "An empty trace";
    at("title").textContent = roots.length > 1 ? `${name} and ${roots.length - 1} more` : name;
    const items = [
      ["time", inOrder.length ? duration(whole.to - whole.from) : "none"],
      ["spans", count(inOrder.length)],
      ["requests to models", sum.hits ? `${count(sum.requests)} (${count(sum.hits)} from the cache)` : count(sum.requests)],
      ["tokens", count(sum.tokens)],
      ["cost", spent(sum)],
      ["errors", count(sum.errors), sum.errors > 0],
      ["began", inOrder.length ? new Date(whole.from / 1000).toISOString().replace("T", " ").replace("Z", " UTC") : "never"],
      ["trace", trace.id],
    ];
    if (trace.dropped) items.push(["not kept", plural(trace.dropped, "span", "spans"), true]);
    at("totals").replaceChildren(...items.map(([term, value, isBad]) => make("div", { class: isBad ? "bad" : null }, make("dt", {}, term), make("dd", {}, value))));
    if (!inOrder.length) space.append(make("p", { class: "none" }, "The trace has no spans."));
  };

  const setTheme = (theme) => {
    document.documentElement.dataset.theme = theme;
    at("theme").textContent = theme === "dark" ? "Light" : "Dark";
  };
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

  let timer = 0;
  const search = () => {
    clearTimeout(timer);
    const query = at("search").value.trim().toLowerCase();
    if (query === state.query) return;
    state.query = query;
    arrange();
  };
  at("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, 120);
  });
  at("errors").addEventListener("click", () => nextError(1));
  at("errors").disabled = !failures.length;
  at("collapse").addEventListener("click", () => openAll(false));
  at("expand").addEventListener("click", () => openAll(true));
  at("in").addEventListener("click", () => zoom(1 / 2));
  at("out").addEventListener("click", () => zoom(2));
  at("fit").addEventListener("click", () => look(whole.from, whole.to));
  at("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  at("keys").addEventListener("click", () => at("help").showModal());
  tree.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(() => {
    drawRuler();
    draw();
  }).observe(tree);

  ruler.addEventListener("pointerdown", (down) => {
    const { left, width } = ruler.getBoundingClientRect();
    const timeAt = (x) => state.view.from + ((state.view.to - state.view.from) * Math.min(Math.max(x - left, 0), width)) / width;
    const range = make("span", { class: "range" });
    ruler.append(range);
    ruler.setPointerCapture(down.pointerId);
    const move = (event) => {
      range.style.left = `${Math.min(down.clientX, event.clientX) - left}px`;
      range.style.width = `${Math.abs(event.clientX - down.clientX)}px`;
    };
    const up = (event) => {
      ruler.removeEventListener("pointermove", move);
      range.remove();
      const times = [timeAt(down.clientX), timeAt(event.clientX)].sort((one, other) => one - other);
      if (Math.abs(event.clientX - down.clientX) > 4) look(...times);
    };
    ruler.addEventListener("pointermove", move);
    ruler.addEventListener("pointerup", up, { once: true });
  });

  summarise();
  drawKinds();
  arrange();
  drawRuler();
  // A link may name a span: trace.html#b7ad6b7169203331.
  const first = nodes.get(location.hash.slice(1)) ?? state.rows[0];
  if (first) choose(first);
  tree.focus();
})();
