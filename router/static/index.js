// The status page: asks /workers every two seconds and shows what comes back.
"use strict";

const PERIOD = 2000; // milliseconds
const byId = (id) => document.getElementById(id);

// One entry for each column of the table: text, or [text, class].
const COLUMNS = [
  (w) => w.id,
  (w) => w.url,
  (w) => w.state,
  (w) => [w.inflight, "number"],
  (w) => [w.prefill_outstanding, "number"],
  (w) => w.devices.join(", "),
  (w) => w.models.join(", "),
  (w) => [w.restarts, "number"],
  (w) => w.last_error ?? "",
];

function row(worker) {
  const tr = document.createElement("tr");
  for (const column of COLUMNS) {
    const [text, name] = [column(worker)].flat();
    const td = tr.insertCell();
    td.textContent = text; // never as markup: names and errors come from outside
    if (name) td.className = name;
  }
  tr.cells[2].dataset.state = worker.state;
  return tr;
}

function show({ workers, total }) {
  const healthy = workers.filter((w) => w.healthy).length;
  const inflight = workers.reduce((sum, w) => sum + w.inflight, 0);
  say(total ? `${healthy} of ${total} workers healthy, ${inflight} requests in flight` : "no workers yet");
  byId("workers").replaceChildren(...workers.map(row));
}

function say(text, stale = false) {
  byId("summary").textContent = text;
  document.body.classList.toggle("stale", stale);
}

async function ask() {
  const key = sessionStorage.getItem("key");
  const response = await fetch("/workers", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  const data = await response.json();
  byId("login").hidden = response.status !== 401;
  if (response.ok) show(data);
  else say(data.error.message, true);
}

async function poll() {
  try {
    if (!document.hidden) await ask();
  } catch {
    say("the router does not answer", true);
  }
  setTimeout(poll, PERIOD);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value); // kept for this tab only
  ask();
});
poll();
