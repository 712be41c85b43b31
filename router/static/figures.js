// What the samples of router/history.py amount to: rates, shares, quantiles. Seconds. Nothing here touches the page.
"use strict";

// The places of a worker's numbers in a sample.
export const INFLIGHT = 0, PREFILL = 1, PROMPT = 2, UNCACHED = 3, REPORTED_PROMPT = 4, REPORTED_CACHED = 5, ANSWER = 6;

const RATE_OVER = 5; // samples
const SHARE_OVER = 60;

// How much a sum grew by the second, at each sample, over those before it; `of` reads the sum.
export function rates(samples, of, over = RATE_OVER) {
  return samples.map((sample, i) => {
    const before = samples[Math.max(0, i - over)];
    const seconds = sample.time - before.time;
    return seconds > 0 ? growth(before, sample, of) / seconds : 0;
  });
}

// A worker's sums begin at zero when it joins; one that has left grows no more.
function growth(before, after, of) {
  const to = of(after);
  return to === null ? 0 : Math.max(0, to - (of(before) ?? 0));
}

// Share of the prompts that was cached, at each sample: by the engines' word where they tell, else as predicted.
// null where no prompt came.
export function shares(samples, ids, over = SHARE_OVER) {
  return samples.map((sample, i) => share(samples[Math.max(0, i - over)], sample, ids));
}

export const latestShare = (samples, ids) => shares(samples.slice(-SHARE_OVER - 1), ids).at(-1);

function share(before, after, ids) {
  const grew = (field) => total(ids, (id) => growth(before, after, number(id, field)));
  const reported = grew(REPORTED_PROMPT);
  if (reported) return { share: grew(REPORTED_CACHED) / reported, predicted: false };
  const prompt = grew(PROMPT);
  return prompt ? { share: 1 - grew(UNCACHED) / prompt, predicted: true } : null;
}

// Reads one of a worker's numbers from a sample; null where the worker is not in it.
export const number = (id, field) => (sample) => sample.workers[id]?.[field] ?? null;

export const total = (ids, of) => ids.reduce((sum, id) => sum + of(id), 0);

// The value under which the share q of what came between two samples lies, by a histogram with these upper bounds, spread
// evenly within a bucket; the last bound for what is beyond it. null when nothing came.
export function quantile(before, after, bounds, q) {
  const counts = after.map((count, i) => count - before[i]);
  const wanted = q * counts.reduce((sum, count) => sum + count, 0);
  if (!wanted) return null;
  let seen = 0;
  const bucket = counts.findIndex((count) => (seen += count) >= wanted);
  if (bucket >= bounds.length) return bounds.at(-1);
  const low = bounds[bucket - 1] ?? 0;
  return low + (bounds[bucket] - low) * (1 - (seen - wanted) / counts[bucket]);
}

// Numbers as people read them.
export const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
export const percent = (share) => `${Math.round(100 * share)} %`;
export const seconds = (value) => (value < 1 ? `${Math.round(1000 * value)} ms` : `${+value.toPrecision(2)} s`);
export const gib = (bytes) => (bytes / 2 ** 30).toFixed(bytes < 10 * 2 ** 30 ? 1 : 0);
