// The prompt box: streams an answer, and tells which worker gave it and what share of the prompt it had cached.
"use strict";

import { events } from "./events.js";
import { percent, seconds } from "./figures.js";

const byId = (id) => document.getElementById(id);
let key = ""; // in memory only: gone with the page
let under_way = null;

export function offerModels(workers) {
  const models = [...new Set(workers.flatMap((worker) => worker.models))];
  const select = byId("model");
  if ([...select.options].map((option) => option.value).join("\n") === models.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...models.map((name) => new Option(name, name)));
  if (models.includes(chosen)) select.value = chosen;
}

async function send(event) {
  event.preventDefault();
  if (under_way) return;
  key = byId("api-key").value || key;
  under_way = new AbortController();
  busy(true);
  byId("answer").textContent = "";
  byId("answered").textContent = "";
  try {
    await stream(under_way.signal);
  } catch (error) {
    const stopped = error.name === "AbortError";
    byId("answered").textContent = stopped ? "stopped" : `the answer broke off: ${error.message}`;
  }
  under_way = null;
  busy(false);
}

async function stream(signal) {
  const began = performance.now();
  const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: body(), signal });
  byId("needs-key").hidden = response.status !== 401 && !key;
  if (!response.ok) {
    const refusal = await response.json().catch(() => ({}));
    byId("answered").textContent = `${response.status}: ${refusal.error?.message ?? refusal.message ?? "refused"}`;
    if (response.status === 401) byId("api-key").focus();
    return;
  }
  const answer = { worker: response.headers.get("x-worker-id"), began, first: null, usage: null, done: false };
  byId("answered").textContent = `${answer.worker} is answering ...`;
  for await (const { data } of events(response)) take(answer, data);
  byId("answered").textContent = summary(answer);
}

function headers() {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function body() {
  const model = byId("model").value;
  return JSON.stringify({
    ...(model ? { model } : {}),
    messages: [{ role: "user", content: byId("prompt").value }],
    max_tokens: Number(byId("most").value),
    stream: true,
    stream_options: { include_usage: true },
  });
}

function take(answer, data) {
  if (data === "[DONE]") {
    answer.done = true;
    return;
  }
  const event = JSON.parse(data);
  if (event.error) throw new Error(event.error.message);
  answer.usage = event.usage ?? answer.usage;
  const delta = event.choices?.[0]?.delta;
  const text = delta?.content ?? delta?.reasoning_content ?? "";
  if (!text) return;
  answer.first ??= performance.now();
  answer.last = performance.now();
  byId("answer").append(text);
}

function summary({ worker, began, first, last, usage, done }) {
  const parts = [`answered by ${worker}`];
  if (!done) parts.push("cut off");
  if (first !== null) parts.push(`first token after ${seconds((first - began) / 1000)}`);
  if (usage && last > first) parts.push(`${Math.round(usage.completion_tokens / ((last - first) / 1000))} tokens/s`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (usage && cached !== undefined && cached !== null) {
    parts.push(`${percent(cached / usage.prompt_tokens)} of ${usage.prompt_tokens} prompt tokens were cached`);
  } else {
    parts.push("the engine does not tell what was cached");
  }
  return parts.join(" · ");
}

function busy(is) {
  byId("send").disabled = is;
  byId("stop").hidden = !is;
  byId("answer").setAttribute("aria-busy", String(is));
}

byId("ask").addEventListener("submit", send);
byId("stop").addEventListener("click", () => under_way?.abort());
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
});
