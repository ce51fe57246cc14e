"use strict";
const trace = JSON.parse(document.getElementById("trace").textContent);
const find = (id) => document.getElementById(id);
const last = Math.max(...trace.runs.map((run) => run.nfe));
const NINES = 3; // the confidence scale ends at 0.999

function make(tag, className, text, parent) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// Most committed tokens lie above 0.9: the scale counts nines, so that 0.9, 0.99 and 0.999 differ.
const nines = (confidence) => Math.min(-Math.log10(Math.max(1 - confidence, 1e-9)), NINES) / NINES;
const share = (step) => (last > 1 ? step / (last - 1) : 0);

function shown(token) {
  return token.text.trim() === "" ? token.text.replaceAll("\n", "⏎").replaceAll(" ", "␣") || "∅" : token.text.trim();
}

function build(run) {
  const card = make("section", "run", undefined, find("runs"));
  make("h2", "", run.title, card);
  make("p", "subtitle", run.subtitle, card);
  const counters = make("dl", "counters", undefined, card);
  const counter = (name) => {
    const cell = make("div", "", undefined, counters);
    make("dt", "", name, cell);
    return make("dd", "", "", cell);
  };
  const view = { run, card, nfe: counter("NFE"), committed: counter("tokens before EOS"), rate: counter("tokens per forward") };
  const canvas = make("div", "canvas", undefined, card);
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "group");
  canvas.setAttribute("aria-label", `Answer, ${run.title}. Up and Down arrows go through its tokens`);
  view.tokens = run.tokens.map((token, i) => {
    const element = make("span", "token", undefined, canvas);
    const label = i === run.length ? "end" : i > run.length ? "▪" : shown(token);
    // The width is there from the start, so that no token moves when another one appears.
    element.style.minWidth = `calc(${[...label].length}ch + 0.56em)`;
    element.addEventListener("pointerenter", () => select(view, i));
    element.addEventListener("click", () => select(view, i));
    if (i < run.length && token.text.includes("\n")) make("span", "break", undefined, canvas);
    return { ...token, label, element };
  });
  view.detail = make("p", "detail", "", card);
  view.detail.setAttribute("aria-live", "polite");
  view.selected = null;
  canvas.addEventListener("keydown", (event) => {
    const change = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (change === undefined) return;
    event.preventDefault();
    select(view, view.selected === null ? 0 : Math.min(Math.max(view.selected + change, 0), run.tokens.length - 1));
  });
  return view;
}

function select(view, i) {
  view.selected = i;
  detail(view);
}

function detail(view) {
  view.tokens.forEach((token, i) => token.element.classList.toggle("selected", i === view.selected));
  if (view.selected === null) {
    view.detail.textContent = "Point at a token for its numbers.";
    return;
  }
  const token = view.tokens[view.selected];
  const where = `Position ${view.selected + 1}: `;
  const how = token.step < 0 ? "filled in after the end" : `pass ${token.step + 1}, confidence ${token.confidence.toFixed(4)}`;
  const visible = !token.element.classList.contains("masked");
  view.detail.textContent = where + (visible ? `${JSON.stringify(token.text)}, ${how}` : "still masked");
}

// -1 marks what was filled in after an early stop: it appears when the run is over.
const place = (run, token) => (token.step < 0 ? run.nfe - 1 : token.step);

function paint(view, step, colour) {
  const { run } = view;
  const now = Math.min(step, run.nfe);
  let committed = 0;
  view.tokens.forEach((token, i) => {
    const at = place(run, token);
    const visible = at < now;
    const tail = i >= run.length;
    if (visible && !tail) committed += 1;
    const element = token.element;
    element.className = "token" + (!visible ? " masked" : tail ? " tail" : at === step - 1 ? " new" : "");
    element.textContent = visible ? token.label : "·";
    element.style.setProperty("--value", (colour === "step" ? share(at) : nines(token.confidence)).toFixed(4));
  });
  detail(view);
  view.card.classList.toggle("done", now === run.nfe);
  view.nfe.textContent = now;
  make("small", "state", now === run.nfe ? " done" : ` of ${run.nfe}`, view.nfe);
  view.committed.textContent = committed;
  make("small", "", ` of ${run.length}`, view.committed);
  view.rate.textContent = now ? (committed / now).toFixed(2) : "–";
}

function legend(colour) {
  const ticks = find("legend").querySelector(".ticks");
  ticks.replaceChildren();
  const marks = colour === "step"
    ? [[0, "1"], [1, String(last)]]
    : [[0, "0"], [nines(0.9), "0.9"], [nines(0.99), "0.99"], [1, "0.999+"]];
  marks.forEach(([at, text], i) => {
    const tick = make("span", i === marks.length - 1 ? "last" : "", text, ticks);
    tick.style.left = `${100 * at}%`;
  });
  make("span", "name", colour === "step" ? "pass that committed the token" : "confidence when committed (scale: nines)", ticks);
}

const views = trace.runs.map(build);
const slider = find("step");
const colours = [...document.querySelectorAll("input[name=colour]")];
let timer = null;
slider.max = last;
slider.value = last; // opens on the finished answer; Play starts at the beginning

function render() {
  const step = Number(slider.value);
  const colour = colours.find((choice) => choice.checked).value;
  document.body.dataset.colour = colour;
  find("at").textContent = `${step} of ${last}`;
  views.forEach((view) => paint(view, step, colour));
  legend(colour);
}

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => (Number(slider.value) < last ? go(Number(slider.value) + 1) : play(false)), 350) : null;
  find("play").setAttribute("aria-pressed", String(on));
  find("play").replaceChildren();
  make("span", "", on ? "⏸" : "▶", find("play")).setAttribute("aria-hidden", "true");
  find("play").append(on ? " Pause" : " Play");
}

function go(step) {
  slider.value = Math.min(Math.max(step, 0), last);
  render();
}

function toggle() {
  if (timer === null && Number(slider.value) === last) go(0);
  play(timer === null);
}

find("prompt").textContent = trace.prompt;
document.title = `How the answer formed: ${trace.prompt}`;
slider.addEventListener("input", () => { play(false); render(); });
find("play").addEventListener("click", toggle);
colours.forEach((choice) => choice.addEventListener("change", render));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "radio") return;
  const step = Number(slider.value);
  const moves = { ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: last };
  if (event.key in moves) {
    event.preventDefault();
    play(false);
    go(moves[event.key]);
  } else if (event.key === " " && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    toggle();
  } else if (event.key === "c" || event.key === "C") {
    const other = colours.find((choice) => !choice.checked);
    other.checked = true;
    render();
  }
});
render();
