// A small plot of the last minutes, as SVG: a line over a filled area, from zero up to the highest value.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120, HEIGHT = 28;

export function plot() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const name of ["area", "line"]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    svg.append(path);
  }
  return svg;
}

// `values` are evenly spaced, null where there is none; `most` of them fill the width; `top`: what the height stands
// for, if not the highest value.
export function draw(svg, label, values, most, top = 0) {
  const high = Math.max(top, ...values.map((value) => value ?? 0)) || 1;
  const x = (i) => (WIDTH * (most - values.length + i)) / (most - 1);
  const y = (value) => HEIGHT - 1 - ((HEIGHT - 3) * value) / high;
  let [line, area] = ["", ""];
  for (const run of runs(values)) {
    const points = run.map(([i, value]) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
    line += `M${points.join("L")}`;
    area += `M${x(run[0][0]).toFixed(1)} ${HEIGHT}L${points.join("L")}L${x(run.at(-1)[0]).toFixed(1)} ${HEIGHT}Z`;
  }
  svg.querySelector(".area").setAttribute("d", area);
  svg.querySelector(".line").setAttribute("d", line);
  svg.setAttribute("aria-label", label);
}

// Stretches without a gap, as lists of [index, value].
function runs(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i === 0 || values[i - 1] === null) found.push([]);
    found.at(-1).push([i, value]);
  });
  return found;
}
