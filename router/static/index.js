// The dashboard: shows what /events tells, and asks the control plane to change it.
"use strict";

import { offerModels } from "./ask.js";
import { events } from "./events.js";
import * as figures from "./figures.js";
import { draw, plot } from "./plot.js";
import { told, Workers } from "./workers.js";

const MOST = 240; // samples that are shown; router/history.py keeps as many
const SHORTEST = 1000, LONGEST = 5000; // milliseconds between two tries to connect

const byId = (id) => document.getElementById(id);
let key = ""; // in memory only: gone with the page
let samples = [];
let bounds = [];
let connection = null;

// -- asking

const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

// The answer as JSON, or as { message }; throws an Error that says what was refused.
async function ask(method, path, body) {
  const content = body ? { "Content-Type": "application/json" } : {};
  const options = { method, headers: { ...headers(), ...content }, body: body && JSON.stringify(body) };
  const response = await fetch(path, options);
  const data = await response.json().catch(() => ({}));
  if (response.ok) return data;
  if (response.status === 401) needKey(Boolean(key));
  throw new Error(data.error?.message ?? `HTTP ${response.status}`);
}

async function act(method, path, what, body) {
  say(`${what} ...`);
  try {
    const data = await ask(method, path, body);
    say(`${what} ${data.message ?? data.state ?? "done"}`);
  } catch (error) {
    say(`${what} ${error.message}`, true);
  }
}

function say(text, bad = false) {
  byId("said").textContent = text;
  byId("said").classList.toggle("bad", bad);
}

function needKey(refused) {
  if (byId("login").hidden) {
    byId("login").hidden = false;
    byId("key").focus();
  }
  if (refused) say("this admin key was refused", true);
}

// Whether the user means it. Not by the dialog's close event: that comes late, when the next question may be open.
let decide = () => {};

function sure(question, verb) {
  byId("question").textContent = question;
  byId("yes").textContent = verb;
  byId("sure").showModal();
  return new Promise((resolve) => (decide = resolve));
}

byId("yes").addEventListener("click", () => decide(true));
byId("no").addEventListener("click", () => decide(false));
byId("sure").addEventListener("cancel", () => decide(false));

// -- showing

const table = new Workers(byId("workers"), act, ask, sure);

const compact = (now) => figures.short.format(now);

// Each figure: what it is called, its values over time, how the newest is written, and what the plot's height is at
// least.
const FIGURES = [
  ["In flight", () => samples.map((s) => s.inflight), waiting],
  ["Requests/s", () => figures.rates(samples, (s) => s.answered), compact],
  ["Tokens/s", (ids) => sums(ids, (id) => figures.rates(samples, figures.number(id, figures.ANSWER))), compact],
  ["Cache hits", (ids) => figures.shares(samples, ids).map((found) => found && found.share), hits, 1],
  ["First byte, p50 / p95", () => samples.map((_, i) => firstByte(i, 0.95)), halfAndMost],
  ["Failed/s", () => figures.rates(samples, (s) => s.failed), compact],
];

function waiting(now, { queued }) {
  return figures.whole.format(now) + (queued ? ` + ${queued} queued` : "");
}

function hits(now, sample, ids) {
  return told(figures.latestShare(samples, ids));
}

function halfAndMost() {
  return [0.5, 0.95].map((q) => lasting(firstByte(samples.length - 1, q))).join(" / ");
}

function sums(ids, of) {
  const each = ids.map(of);
  return samples.map((_, i) => each.reduce((sum, values) => sum + values[i], 0));
}

function firstByte(i, q) {
  return figures.quantile(samples[Math.max(0, i - 60)].first_byte, samples[i].first_byte, bounds, q);
}

const lasting = (value) => (value === null ? "–" : figures.seconds(value));

function makeFigures() {
  for (const [name] of FIGURES) {
    const group = document.createElement("div");
    const [term, value, drawn] = ["dt", "dd", "dd"].map((tag) => group.appendChild(document.createElement(tag)));
    term.textContent = name;
    value.className = "value";
    drawn.append(plot());
    byId("figures").append(group);
  }
}

function showFigures(ids) {
  FIGURES.forEach(([name, values, text, top], i) => {
    const [, value, drawn] = byId("figures").children[i].children;
    const over = values(ids);
    value.textContent = text(over.at(-1) ?? 0, samples.at(-1), ids);
    draw(drawn.firstChild, `${name}, the last minutes: ${value.textContent} now`, over, MOST, top);
  });
}

function show({ sample, draining, workers }) {
  samples = [...samples.filter((earlier) => earlier.time < sample.time), sample].slice(-MOST);
  showFigures(workers.map((worker) => worker.id));
  table.show(workers, samples, MOST);
  offerModels(workers);
  byId("none").hidden = workers.length > 0;
  const ready = workers.filter((worker) => worker.state === "ready").length;
  tell(`${ready} of ${workers.length} workers ready${draining ? "; shutting down" : ""}`);
  document.title = `${ready}/${workers.length} ready · llm-launch`;
}

function begin({ version, policy, first_byte_bounds, samples: kept }) {
  samples = kept;
  bounds = first_byte_bounds;
  byId("about").textContent = `${version}, policy ${policy}`;
  byId("login").hidden = true;
}

const ON = { history: begin, snapshot: show };

function tell(text, stale = false) {
  byId("summary").textContent = text;
  document.body.classList.toggle("stale", stale);
}

// -- watching

async function watch(signal) {
  for (let wait = SHORTEST; !signal.aborted; wait = Math.min(2 * wait, LONGEST)) {
    try {
      const response = await fetch("/events", { headers: headers(), signal });
      if (response.status === 401) {
        tell("this router has an admin key", true);
        return needKey(Boolean(key));
      }
      if (response.ok) {
        wait = SHORTEST;
        for await (const { name, data } of events(response)) ON[name](JSON.parse(data));
        tell("the router closed the connection", true);
      } else {
        tell((await response.json()).error.message, true);
      }
    } catch (error) {
      if (signal.aborted) return;
      tell("the router does not answer", true);
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

function connect() {
  connection?.abort();
  connection = new AbortController();
  if (!document.hidden) watch(connection.signal); // a hidden page costs nothing
}

document.addEventListener("visibilitychange", connect);
byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value;
  byId("key").value = "";
  say("");
  connect();
});
byId("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const url = byId("url").value.trim();
  await act("POST", "/workers", `${url}:`, { url, wait: false });
  byId("url").value = "";
});
makeFigures();
connect();
