// The table of workers: rows are made once and then kept up to date, so that the focus stays where it is.
"use strict";

import * as figures from "./figures.js";
import { draw, plot } from "./plot.js";

const LOG_PERIOD = 2000; // milliseconds between two looks at a log that is open
const LOG_LINES = 200;

const COLUMNS = ["Worker", "State", "In flight", "Prefill", "Tokens/s", "Cache hits", "GPU", "Restarts", "Do"];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children); // text stays text: names, errors and logs come from outside
  return made;
}

// `act(method, path)` asks the control plane and says what came of it; `sure(question, verb)` asks the user.
export class Workers {
  constructor(table, act, ask, sure) {
    this.table = table;
    this.act = act;
    this.ask = ask;
    this.sure = sure;
    this.rows = new Map();
  }

  show(workers, samples, most) {
    for (const [id, row] of this.rows) {
      if (workers.some((worker) => worker.id === id)) continue;
      row.leave();
      this.rows.delete(id);
    }
    for (const worker of workers) {
      if (!this.rows.has(worker.id)) this.rows.set(worker.id, new Row(this, worker.id));
      this.rows.get(worker.id).show(worker, samples, most);
    }
    this.table.classList.toggle("without-gpu", workers.every((worker) => worker.devices.length === 0));
  }
}

class Row {
  constructor(owner, id) {
    this.owner = owner;
    this.id = id;
    this.path = `/workers/${encodeURIComponent(id)}`;
    this.body = owner.table.appendChild(element("tbody", { id: `worker-${id}` }));
    this.cells = this.makeCells();
    this.error = this.wide("error");
    this.log = this.wide("log");
    this.pre = this.log.appendChild(element("pre", { tabIndex: 0, ariaLabel: `log of ${id}` }));
    this.log.parentElement.hidden = true;
  }

  makeCells() {
    const row = this.body.appendChild(element("tr"));
    row.setAttribute("role", "row");
    const cells = COLUMNS.map((name, i) => {
      const cell = row.appendChild(element(i ? "td" : "th", i ? {} : { scope: "row" }));
      cell.setAttribute("role", i ? "cell" : "rowheader");
      cell.dataset.label = name;
      return cell;
    });
    const [name, state, inflight, prefill, tokens, hits, gpu, restarts, actions] = cells;
    this.url = element("small");
    this.models = element("small");
    name.append(element("strong", { textContent: this.id }), this.url, this.models);
    for (const cell of [inflight, tokens]) cell.append(element("span"), plot());
    for (const cell of [inflight, prefill, tokens, hits, restarts]) cell.classList.add("number");
    gpu.classList.add("gpu");
    actions.classList.add("actions");
    this.buttons = this.makeButtons(actions);
    return { state, inflight, prefill, tokens, hits, gpu, restarts };
  }

  makeButtons(cell) {
    const button = (text, does) => {
      const made = cell.appendChild(element("button", { type: "button", textContent: text }));
      made.setAttribute("aria-label", `${text} ${this.id}`);
      made.addEventListener("click", does);
      return made;
    };
    return {
      drain: button("Drain", () => this.drain()),
      restart: button("Restart", () => this.restart()),
      remove: button("Remove", () => this.remove()),
      log: button("Log", () => this.toggleLog()),
    };
  }

  wide(name) {
    const row = this.body.appendChild(element("tr", { className: `wide ${name}` }));
    row.setAttribute("role", "row");
    const cell = row.appendChild(element("td", { colSpan: COLUMNS.length }));
    cell.setAttribute("role", "cell");
    return cell;
  }

  show(worker, samples, most) {
    this.worker = worker;
    const { state, prefill, hits, gpu, restarts } = this.cells;
    this.url.textContent = worker.node ? `${worker.url} on ${worker.node}` : worker.url;
    this.models.textContent = worker.models.join(", ");
    state.textContent = worker.state;
    state.dataset.state = worker.state;
    const inflight = samples.map(figures.number(this.id, figures.INFLIGHT));
    const tokens = figures.rates(samples, figures.number(this.id, figures.ANSWER));
    this.line("inflight", "requests in flight", inflight, most, worker.inflight);
    this.line("tokens", "tokens per second", tokens, most, tokens.at(-1));
    prefill.textContent = figures.short.format(worker.prefill_outstanding);
    hits.textContent = told(figures.latestShare(samples, [this.id]));
    gpu.replaceChildren(...worker.devices.map((name) => device(name, worker.device_use[name])));
    restarts.textContent = worker.restarts;
    const trouble = worker.waiting ? `waiting: ${worker.waiting}` : worker.last_error;
    this.error.textContent = trouble ?? "";
    this.error.parentElement.hidden = !trouble;
    this.offer(worker);
  }

  line(cell, what, values, most, now) {
    const [text, svg] = this.cells[cell].children;
    text.textContent = figures.short.format(now);
    const highest = figures.short.format(Math.max(0, ...values));
    draw(svg, `${what}: ${text.textContent} now, ${highest} at most in the last minutes`, values, most);
  }

  offer(worker) {
    const { drain, restart, log } = this.buttons;
    const word = worker.state === "draining" ? "Undrain" : "Drain";
    if (drain.textContent !== word) {
      drain.textContent = word;
      drain.setAttribute("aria-label", `${word} ${this.id}`);
    }
    restart.hidden = log.hidden = !worker.launched;
  }

  drain() {
    this.owner.act("POST", `${this.path}/${this.buttons.drain.textContent.toLowerCase()}`, `${this.id}:`);
  }

  async restart() {
    const question = `Restart ${this.id}? Its requests may finish first; what it has cached is lost.`;
    if (!(await this.owner.sure(question, "Restart"))) return;
    this.owner.act("POST", `${this.path}/restart`, `${this.id}: restart`);
  }

  async remove() {
    const end = this.worker.launched ? ", then its engine is stopped" : "";
    const question = `Remove ${this.id}? Its requests may finish first${end}.`;
    if (await this.owner.sure(question, "Remove")) this.owner.act("DELETE", this.path, `${this.id}: removal`);
  }

  toggleLog() {
    const row = this.log.parentElement;
    row.hidden = !row.hidden;
    this.buttons.log.setAttribute("aria-expanded", String(!row.hidden));
    clearTimeout(this.timer);
    this.pre.textContent = "";
    this.lines = [];
    this.mark = null;
    if (!row.hidden) this.follow();
  }

  async follow() {
    if (!document.hidden) await this.read();
    const open = !this.log.parentElement.hidden && this.body.isConnected;
    if (open) this.timer = setTimeout(() => this.follow(), LOG_PERIOD);
  }

  async read() {
    const from = this.mark === null ? `lines=${LOG_LINES}` : `after=${encodeURIComponent(this.mark)}`;
    const found = await this.owner.ask("GET", `${this.path}/logs?${from}`).catch(this.unread);
    const atEnd = this.pre.scrollHeight - this.pre.scrollTop - this.pre.clientHeight < 30; // pixels
    this.mark = found.next ?? this.mark;
    this.lines = [...this.lines, ...found.lines].slice(-LOG_LINES);
    this.pre.textContent = this.lines.join("\n") || "(nothing yet)";
    if (atEnd) this.pre.scrollTop = this.pre.scrollHeight;
  }

  unread(error) {
    return { lines: [error.message] };
  }

  leave() {
    clearTimeout(this.timer);
    this.body.remove();
  }
}

// "63 %", with a mark when it is predicted and not the engine's word.
export function told(found) {
  if (!found) return "–";
  return `${found.predicted ? "≈ " : ""}${figures.percent(found.share)}`;
}

function device(name, use) {
  const made = element("div", {}, name.length > 12 ? `${name.slice(0, 12)} ...` : name);
  if (!use) return made;
  const [used, most, busy] = use;
  if (used !== null) {
    const text = `${figures.gib(used)} of ${figures.gib(most)} GiB`;
    const meter = element("meter", { max: most, value: used, ariaLabel: `memory of GPU ${name}: ${text}` });
    made.append(meter, element("small", { textContent: text }));
  }
  if (busy !== null) made.append(element("small", { textContent: `${figures.percent(busy)} busy` }));
  return made;
}
