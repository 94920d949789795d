// The contribution matrix of a loop beside that of full-batch training, for any choice of rules and sizes.
// widget.py calls this function: with the element to fill, the rules as it has generated them, the texts of a
// language, the famous loops and the state to start with. Lines of comment and indentation do not reach the page.
(root, rules, texts, famous, start) => {
// The rules: of each slot their names, lines of code and the name of the rule that puts it right.
const SLOTS = ["visit", "step", "reset", "scale", "loss"];
const SIZES = { n: 24, b: 8, k: 8, epochs: 4 };
const tables = {};
const unpack = (packed, phrase, i) => packed.split(rules.symbols[i]).join(phrase);
rules.phrases.split("|").reduceRight(unpack, rules.text).split("\n\n").forEach((table, slot) => {
  const lines = table.split("\n").flatMap((line) =>
    (line.includes("~") ? rules.numbers.map((each) => line.replaceAll("~", each)) : line));
  tables[SLOTS[slot]] = lines.map((line) => {
    const [name, code, fix] = line.split("\t");
    return { name, code, wrong: fix != null, fix: fix || lines[0].split("\t")[0] };
  });
});
const place = (slot, name) => tables[slot].findIndex((rule) => rule.name == name);
const ruleOf = (slot, name) => tables[slot][place(slot, name)];
const right = Object.fromEntries(SLOTS.map((slot) => [slot, tables[slot][0].name]));

const { ceil, floor, max, min } = Math;
// Fractions: numerators of loops that never clear gradients outgrow doubles.
const gcd = (a, b) => { while (b) [a, b] = [b, a % b]; return a; };
const fraction = (a, b) => { const common = gcd(a, b); return [a / common, b / common]; };
const ratio = ([a, b]) => [BigInt(a), BigInt(b)];
const times = ([a, b], [c, d]) => fraction(a * c, b * d);
const plus = ([a, b], [c, d]) => (b == d ? fraction(a + c, b) : fraction(a * d + c * b, b * d));
const differ = ([a, b], [c, d]) => a != c || b != d;
const text = ([a, b]) => a + (b == 1n ? "" : `/${b}`);
const number = ([a, b]) => {
  const spare = BigInt(max(0, b.toString(2).length - 900));
  return Number(a >> spare) / Number(b >> spare);
};
const ZERO = [0n, 1n];
const range = (from, to) => Array.from({ length: max(0, to - from) }, (_, i) => from + i);
const up = (a, b) => ceil(a / b);
const zeros = (n) => Array(n).fill(ZERO);

// _visits of simulate.py: the micro-batches that a loop draws, with the samples of the window around each.
const visited = (rule, n, b, k, epochs) => {
  const length = up(n, b), found = [];
  const cut = (i, size) => range(i * b, min(n, i * b + size));
  if (rule.startsWith("stream")) {
    const updates = {
      "stream": floor(epochs * length / k), "stream, rounded up": up(epochs * length, k),
      "stream, by epochs": epochs * up(length, k), "stream, whole windows": epochs * floor(length / k),
      "stream of samples": up(n * epochs, b * k),
    }[rule];
    const batches = range(0, updates * k).map((g) =>
      rule == "stream of samples" ? range(g * b, g * b + b).map((i) => i % n) : cut(g % length, b));
    return batches.map((samples, i) => {
      const first = i - i % k;
      return { samples, window: batches.slice(first, first + k).flat(), count: k, place: i - first, i, number: i };
    });
  }
  const whole = floor({ "whole windows": length / k, "whole windows of samples": n / (b * k) }[rule] ?? length);
  const passes = { "first epoch": 1, "until max_steps": 2 * epochs * up(k, length) }[rule] ?? epochs;
  for (let epoch = 0; epoch < passes; epoch++) {
    for (let i = 0; i < length; i++) {
      const first = i - i % k, samples = cut(i, b), short = samples.length < b;
      if (floor(i / k) >= whole || (rule == "skips short" && short)) continue;
      found.push({
        samples: rule == "leaves out short" && short ? [] : samples,
        window: cut(first, k * b), count: min(k, length - first), place: i - first, i, number: epoch * length + i,
      });
    }
  }
  return found;
};

// structure() and matrix() of simulate.py, for one rank without clipping: a row of fractions for each update.
const matrix = (program, [n, b, k, epochs], units) => {
  const { visit, reset } = program, step = place("step", program.step), scale = place("scale", program.scale);
  const visits = visited(visit, n, b, k, epochs), streams = visit.startsWith("stream"), batches = up(n, b);
  const length = streams ? visits.length : batches;
  const total = streams || visit == "first epoch" ? visits.length : batches * epochs;
  const late = rules.late.includes(program.step), sum = (samples) => samples.reduce((all, i) => all + units[i], 0);
  const left = new Map(), rows = [];
  let since = [], seen = 0;
  const multiply = (factor) => factor && left.forEach((value, each) => left.set(each, times(value, ratio(factor))));
  const stepping = (each) => {
    if (!rules.gate(rules.numbers, each.i, each.number, since.length, seen, length, total, n, b, k)[step]) return;
    if (reset == "before step") left.clear();
    if (since.length) {
      const all = sum(since.flatMap((one) => one.samples));
      multiply(rules.divide(rules.numbers, seen, all, since.length, n, b, k)[scale]);
    }
    const row = zeros(n);
    left.forEach((value, { samples }) => {
      const mean = times(value, ratio([1, sum(samples)]));
      for (const i of samples) {
        row[i] = plus(row[i], program.loss == "mean" ? mean : times(value, ratio([1, samples.length * units[i]])));
      }
    });
    rows.push([left.size, row]);
    [since, seen] = [[], 0];
    if (["after step", "epoch start too", "epoch's list"].includes(reset)) left.clear();
  };
  for (const each of visits) {
    const { samples, window, i } = each;
    if (i == 0 && ["epoch start", "epoch start too", "epoch's list"].includes(reset)) {
      left.clear();
      if (reset == "epoch's list") [since, seen] = [[], 0];
    }
    if (late) stepping(each);
    if (reset == "every" || (["window start", "first only"].includes(reset) && i % k == 0)) left.clear();
    if (samples.length) {
      const held = [rules.numbers, samples.length, sum(samples), window.length, sum(window)];
      const part = [...held, each.count, each.place, batches, n, b, k];
      if (reset != "first only" || i % k == 0) {
        left.set(each, fraction(...ratio(rules.weight(...part)[scale])));
        multiply(rules.each(...part)[scale]);
      }
      since.push(each);
      seen += samples.length;
    }
    if (reset == "after first" && i % k == 0) left.clear();
    if (!late) stepping(each);
    if (reset == "window end" && (i + 1) % k == 0) left.clear();
    if (visit == "until max_steps" && rows.length == epochs * up(batches, k)) break;
  }
  const some = rows.some(([full]) => full);
  return rows.filter(([full]) => full || !some).map(([, row]) => row);
};
window.accumcheckMatrix = (...asked) => matrix(...asked).map((row) => row.map(text));

let state = { ...right, ...start }, tokens = start.units || "1 3 2";
// Tokens are whole numbers below 1000; where there are none, each sample counts once.
const clean = (typed) => (typed.match(/[1-9]\d{0,2}/g) ?? []).join(" ");
// Both matrices of a state, how many cells differ, and the relative error of the worst update.
const compared = (n) => {
  const given = (state.units || "1").split(" "), units = range(0, n).map((i) => +given[i % given.length]);
  const { b, k, epochs } = state;
  const ours = matrix(state, [n, b, k, epochs], units), due = matrix(right, [n, b * k, 1, epochs], units);
  let wrong = 0, worst = 0;
  const rows = max(ours.length, due.length), norm = (list) => Math.hypot(...list);
  for (let s = 0; s < rows; s++) {
    const wanted = due[s] ?? zeros(n);
    const off = (ours[s] ?? zeros(n)).map((one, i) => {
      wrong += differ(one, wanted[i]);
      return differ(one, wanted[i]) ? number(one) - number(wanted[i]) : 0;
    });
    worst = max(worst, due[s] ? norm(off) / norm(wanted.map(number)) : 1);
  }
  return { ours, due, units, wrong, worst, rows };
};

// Making elements.
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  element.append(...children);
  return element;
};
const said = (name) => make("span", { class: "said" }, texts[name]);
const say = (name, ...values) => texts[name].replace(/\{(\d)\}/g, (_, i) => values[i]);
const percent = (error) => `${error < 0.095 ? (100 * error).toPrecision(2) : Math.round(100 * error)} %`;
const words = ({ code }) => {
  const [count, name] = state.units ? ["(targets != -100).sum()", "tokens"] : ["len(targets)", "samples"];
  return code.replace(/^loss\.backward\(\); /, "").replace(/units_(in_window|since_step)/g, `${name}_$1`)
    .replace(/\bunits\b/g, count);
};

const controls = {}, shownAt = {};
const change = (changes) => {
  state = { ...state, ...changes };
  show();
  const link = Object.entries(state).filter(([name, value]) => value && value !== right[name]);
  try {
    history.replaceState(null, "", `#${new URLSearchParams(link)}`);
  } catch { /* a frame without an address */ }
};
const restore = () => {
  const link = new URLSearchParams(location.hash.slice(1));
  if (!link.has("n")) return;
  state = { ...start, ...right, units: "" };
  for (const [name, value] of link) {
    if (name in SIZES && value > 0 && value < 100) state[name] = floor(value);
    else if (SLOTS.includes(name) && place(name, value) >= 0) state[name] = value;
    else if (name == "units") state.units = clean(value);
  }
  return true;
};

// What can be set.
const control = (name, element, chosen) => {
  controls[name] = element;
  element[name in SIZES ? "oninput" : "onchange"] = () => chosen(element.value);
  return make("label", {}, make("span", {}, texts[name], (shownAt[name] = make("b"))), element);
};
const select = (name, chosen) => control(name, make("select"), chosen);
const option = (value, said, attributes) => make("option", { value, ...attributes }, said);
const options = (slot) => controls[slot].replaceChildren(...["fine", "mistakes"].map((group, wrong) =>
  make("optgroup", { label: texts[group] },
    ...tables[slot].filter((rule) => rule.wrong == wrong).map((rule) => option(rule.name, words(rule))))));
const loops = select("loop", (i) => change({ ...right, ...famous[i][1] }));
controls.loop.append(...famous.map(([name], i) => option(i, name)), option(-1, texts.own, { hidden: true }));
const units = select("over", (value) => change({ units: value && tokens, loss: right.loss }));
controls.over.append(option("", texts.samples), option("1", texts.tokens));
const counts = control("counts", make("input", { inputmode: "numeric", autocomplete: "off" }),
  (value) => change({ units: clean(value) || tokens }));
const slots = SLOTS.map((slot) => select(slot, (value) => change({ [slot]: value })));
const sliders = Object.keys(SIZES).map((name) =>
  control(name, make("input", { type: "range", min: 1 }), (value) => change({ [name]: +value })));
const copied = make("span", { role: "status" });
const copy = make("button", { type: "button" }, texts.copy);
copy.onclick = () => {
  change({});
  const write = async () => navigator.clipboard.writeText(location.href);
  write().then(() => { copied.textContent = texts.copied; }, () => prompt(texts.copy, location.href));
};

// What is shown.
const summary = make("p", { class: "summary", role: "status" }), matrices = make("div", { class: "matrices" });
const code = make("div", { class: "code" }), top = make("span", { class: "top" });
const bars = make("div", { class: "bars", role: "group", "aria-label": texts.teeth });
const tableOf = (rows, other, { units, rows: count }, caption, marked) => {
  const n = units.length, largest = max(...[...rows, ...other].flat().map(number), 0) || 1;
  const heads = units.map((held, i) =>
    make("th", { scope: "col" }, i, ...(state.units ? [make("small", { title: say("held", held) }, `×${held}`)] : [])));
  const body = range(0, count).map((s) => make("tr", { class: rows[s] ? "" : "none" }, make("th", { scope: "row" }, s),
    ...(rows[s] ?? zeros(n)).map((one, i) => {
      const due = other[s]?.[i] ?? ZERO, wrong = marked && differ(one, due), exact = text(one);
      const shade = number(one) / largest, edge = i && i % (state.b * state.k) == 0;
      return make("td", {
        style: `--v:${shade && 0.08 + 0.5 * shade}`, title: wrong ? say("should", exact, text(due)) : exact,
        class: `${wrong ? "wrong" : ""} ${edge ? "edge" : ""}`,
      }, ...(wrong ? [said("wrong")] : []),
      !rows[s] ? "–" : !one[0] ? "·" : exact.length > 7 ? number(one).toPrecision(2) : exact);
    })));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    make("table", {}, make("caption", {}, caption),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, texts.update), ...heads)), make("tbody", {}, ...body)));
};
const listing = () => {
  const lines = [];
  const add = (mark, depth, line) => lines.push(make("div", { class: { "-": "minus", "+": "plus" }[mark] ?? "" },
    make("span", { class: "mark", "aria-hidden": "true" }, mark),
    ...(mark == " " ? [] : [said(mark == "-" ? "wrong" : "instead")]),
    make("code", {}, "    ".repeat(depth) + line)));
  const rule = (slot, depth) => {
    const { wrong, fix } = ruleOf(slot, state[slot]);
    add(wrong ? "-" : " ", depth, words(ruleOf(slot, state[slot])));
    if (wrong) add("+", depth, words(ruleOf(slot, fix)));
  };
  rule("visit", 0);
  for (const slot of state.loss == right.loss ? ["scale"] : ["loss", "scale"]) rule(slot, 1);
  add(" ", 1, "loss.backward()");
  rule("step", 1);
  rule("reset", 2);
  code.replaceChildren(...lines);
};
let worded, key, errors;
const teeth = () => {
  const { n, ...rest } = state, now = JSON.stringify(rest);
  if (now != key) errors = range(1, max(SIZES.n, n) + 1).map((one) => compared(one).worst);
  key = now;
  const most = max(...errors) || 1, focused = bars.contains(document.activeElement);
  top.textContent = percent(most);
  bars.replaceChildren(...errors.slice(0, SIZES.n).map((error, i) => {
    const title = say("bar", i + 1, error ? percent(error) : texts.fine);
    const bar = make("button", {
      type: "button", tabindex: i + 1 == min(n, SIZES.n) ? 0 : -1, "aria-pressed": i + 1 == n, "aria-label": title,
      title, style: `--h:${error / most}`, class: error ? "" : "zero",
    }, make("i"), make("b", {}, i + 1));
    bar.onclick = () => change({ n: i + 1 });
    return bar;
  }));
  if (focused) bars.children[min(n, SIZES.n) - 1].focus();
};
bars.onkeydown = (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1, Home: -SIZES.n, End: SIZES.n }[event.key];
  if (by) {
    event.preventDefault();
    change({ n: min(SIZES.n, max(1, state.n + by)) });
  }
};
const show = () => {
  const found = compared(state.n);
  tokens = state.units || tokens;
  if (worded != !state.units) SLOTS.forEach(options);
  worded = !state.units;
  for (const slot of SLOTS) controls[slot].value = state[slot];
  slots[4].hidden = counts.hidden = !state.units;
  controls.over.value = state.units && "1";
  controls.counts.value = tokens;
  controls.loop.value = famous.findIndex(([, edits]) => SLOTS.every((slot) => state[slot] == (edits[slot] ?? right[slot])));
  for (const name in SIZES) {
    controls[name].max = max(SIZES[name], state[name]);
    controls[name].value = shownAt[name].textContent = state[name];
  }
  const { ours, due, wrong } = found, all = found.rows * state.n;
  summary.textContent = (wrong ? say("off", wrong, all, percent(found.worst)) : say("right", all))
    + (ours.length == due.length ? "" : ` ${say("updates", ours.length, due.length)}`);
  summary.className = wrong ? "summary bad" : "summary";
  matrices.replaceChildren(tableOf(ours, due, found, texts.ours, true), tableOf(due, ours, found, texts.due));
  listing();
  teeth();
  copied.textContent = "";
};
const linked = restore();
const whole = make("div", { class: "inside", lang: texts.lang },
  make("div", { class: "choose" }, loops, units, counts), make("div", { class: "choose sizes" }, ...sliders),
  summary, matrices, make("div", { class: "teeth" }, make("p", {}, texts.teeth), top, bars),
  make("details", { open: "" }, make("summary", {}, texts.rules), make("div", { class: "choose slots" }, ...slots), code),
  make("p", { class: "link" }, copy, " ", copied));
show();
root.replaceChildren(whole);
if (linked) root.scrollIntoView();
addEventListener("hashchange", () => { if (restore()) show(); });
}
