// Small pictures of numbers: a line of the last minutes, a histogram, a table.

import { count, el, hidden } from "./dom.js";

/** The last values, oldest first; where one is null there was nothing to measure. */
export function sparkline(values, length) {
  const most = Math.max(1e-9, ...values);
  const start = length - values.length;
  const runs = [[]];
  values.forEach((value, place) => {
    if (value === null) runs.push([]);
    else runs.at(-1).push([start + place, 28 - (26 * value) / most]);
  });
  const last = length - 1;
  return el("svg", { viewBox: `0 0 ${last} 30`, preserveAspectRatio: "none", "aria-hidden": "true" },
    el("line", { x1: 0, x2: last, y1: 29, y2: 29 }),
    runs.filter((run) => run.length > 1).map((run) => [
      el("path", { class: "area", d: `M${run[0][0]},29 L${run.join(" L")} L${run.at(-1)[0]},29 Z` }),
      el("polyline", { points: run.join(" ") }),
    ]));
}

export function tile(title, value, unit, values, length) {
  return el("section", { class: "tile" }, el("h2", {}, title),
    el("p", { class: "value" }, value, unit ? el("small", {}, unit) : null), sparkline(values, length));
}

/** Buckets [upper edge in seconds or null, count] as columns, with the same as a table to listen to. */
export function histogram(buckets, title) {
  const used = buckets.map(([, value], place) => (value > 0 ? place : -1)).filter((place) => place >= 0);
  if (!used.length) return el("p", { class: "empty" }, "No request in this time.");
  const shown = buckets.slice(Math.max(0, used[0] - 1), Math.min(buckets.length, used.at(-1) + 2));
  const most = Math.max(...shown.map(([, value]) => value));
  const label = (edge) => (edge === null ? "more" : `${Number((edge * 1e3).toPrecision(3))}`);
  return el("figure", { class: "histogram" },
    el("div", { class: "columns", "aria-hidden": "true" }, shown.map(([edge, value]) =>
      el("i", { style: { height: `${(100 * value) / most}%` }, title: `up to ${label(edge)} ms: ${count(value)}` }))),
    el("div", { class: "edges", "aria-hidden": "true" }, shown.map(([edge]) => el("span", {}, label(edge)))),
    hidden(`${title}: ${shown.filter(([, value]) => value).map(([edge, value]) => `${count(value)} up to ${label(edge)} milliseconds`).join(", ")}`));
}

/** Rows of cells under headings; all but the first are numbers, unless there are none. */
export function table(title, headings, rows, hasNumbers = true) {
  const kind = (place) => (place && hasNumbers ? { class: "number-cell" } : {});
  return el("table", {}, el("caption", { class: "hidden" }, title),
    el("thead", {}, el("tr", {}, headings.map((text, place) => el("th", { scope: "col", ...kind(place) }, text)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, place) => el(place ? "td" : "th", place ? kind(place) : { scope: "row" }, cell))))));
}
