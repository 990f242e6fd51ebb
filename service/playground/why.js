// Why one score is what it is: where each layer looked, and what the score would be without each event.

import { byId, day, el, fill, minute, score, signed } from "./dom.js";
import { feedback } from "./timeline.js";

const LISTED = 10;

/** `found` is the answer of /v1/explain for one candidate; `bare` its score without any history. */
export function why({ name, found, task, bare, nameOf }, onClose) {
  const events = found.events.map((event, place) => ({
    ...event, place, effect: event.effect[task][0], layers: layersOf(found.attention, found.events.length, place),
  }));
  for (const event of events) event.together = mean(event.layers);
  const head = el("div", { class: "line spread" },
    el("h2", {}, "Why ", el("em", {}, name)),
    el("button", { type: "button", class: "quiet", onclick: onClose }, "Close"));
  const value = found.scores[task][0];
  const told = el("p", { class: "told" }, el("b", {}, score(value)), ` for ${task}`,
    bare === null ? null : [", of which the history makes ", el("b", {}, signed(value - bare)), ` (${score(bare)} without any)`], ".");
  if (!events.length) {
    return [head, told, el("div", { class: "empty" }, el("p", {}, "There is no event before this moment: the score is that of a newcomer."))];
  }
  return [head, told, found.attention ? null : noAttention(found),
    strip(events, found.attention, nameOf), table(events, found.attention, nameOf)];
}

/** Weights of one event by layer, from arrays that end with the newest event; null outside the window. */
function layersOf(attention, size, place) {
  if (!attention) return [];
  return attention.events.map((layer) => layer[0][layer[0].length - size + place] ?? null);
}

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : 0;
}

function noAttention(found) {
  return el("p", { class: "note" }, found.degraded.includes("attention-missing")
    ? "This bundle has no explain graph, so where each layer looked cannot be shown; the effects can."
    : "This model has no layer of attention.");
}

/** One row per layer, one column per event; a cursor that the pointer or the arrow keys move. */
function strip(events, attention, nameOf) {
  const size = events.length;
  const layers = attention ? attention.events.length : 0;
  const weights = events.flatMap((event) => event.layers).filter((weight) => weight !== null);
  const [least, most] = [Math.min(...weights), Math.max(...weights)];
  const depth = (weight) => 0.05 + (0.95 * (weight - least)) / Math.max(1e-9, most - least);
  const steepest = Math.max(1e-9, ...events.map((event) => Math.abs(event.effect)));
  const heat = (of) => svg(size, 1, events.map((event) => {
    const weight = of(event);
    return weight === null ? null
      : el("rect", { x: event.place, y: 0, width: 1, height: 1, class: "heat", style: { "fill-opacity": depth(weight).toFixed(3) } });
  }));
  const effects = svg(size, 2, events.map((event) => {
    const height = Math.abs(event.effect) / steepest;
    return el("rect", { x: event.place + 0.12, y: event.effect > 0 ? 1 - height : 1, width: 0.76, height, class: event.effect > 0 ? "up" : "down" });
  }));
  const nothing = (layer) => attention.nothing[layer][0];
  const rows = [];
  for (let layer = 0; layer < layers; layer += 1) rows.push([`layer ${layer + 1}`, heat((event) => event.layers[layer]), nothing(layer)]);
  if (layers > 1) rows.push(["together", heat((event) => event.together), mean(attention.nothing.map((each) => each[0]))]);
  rows.push(["effect", effects, null]);

  const cursor = el("div", { class: "cursor", "aria-hidden": "true" });
  const detail = el("p", { class: "detail", "aria-live": "polite" });
  const slider = el("input", { type: "range", min: 0, max: size - 1, value: size - 1, "aria-label": "Event, oldest to newest" });
  const overlay = el("div", { class: "overlay" }, cursor);
  function point(place) {
    const event = events[place];
    slider.value = String(place);
    slider.setAttribute("aria-valuetext", `${nameOf(event.item_id)}, ${day(event.timestamp)}`);
    cursor.style.left = `${(100 * place) / size}%`;
    cursor.style.width = `${100 / size}%`;
    fill(detail, el("b", {}, nameOf(event.item_id)), " ", feedback(event.feedback), ` ${day(event.timestamp)} ${minute(event.timestamp)} · effect `,
      el("b", { class: event.effect > 0 ? "up" : "down" }, signed(event.effect, 4)),
      layers ? ` · attention ${event.layers.map((weight) => weight === null ? "–" : percent(weight)).join(" · ")}` : null);
  }
  slider.addEventListener("input", () => point(Number(slider.value)));
  overlay.addEventListener("pointermove", (event) => {
    const box = overlay.getBoundingClientRect();
    point(Math.min(size - 1, Math.max(0, Math.floor((size * (event.clientX - box.left)) / box.width))));
  });
  point(events.reduce((best, event) => (Math.abs(event.effect) > Math.abs(events[best].effect) ? event.place : best), 0));
  return el("figure", { class: "strip" },
    el("div", { class: "rows" },
      rows.map(([label, drawn, rest]) => [
        el("span", { class: "label" }, label),
        el("div", { class: label === "effect" ? "cells effects" : "cells" }, drawn),
        el("span", { class: "rest", title: rest === null ? "" : "attention to no event at all" }, rest === null ? "" : percent(rest)),
      ]),
      overlay),
    el("div", { class: "axis" }, slider,
      el("span", {}, `oldest · ${day(events[0].timestamp)}`), el("span", {}, `newest · ${day(events[size - 1].timestamp)}`)),
    detail,
    el("figcaption", { class: "note" }, weights.length ? `Colour: attention, the mean of the heads, from ${percent(least)} to ${percent(most)}. On the right, attention to no event. ` : "",
      "Effect: the score with the event minus the score without it."));
}

function svg(width, height, children) {
  return el("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, children);
}

const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}%`;

const ORDERS = {
  effect: ["largest effect", (a, b) => Math.abs(b.effect) - Math.abs(a.effect)],
  together: ["most attention", (a, b) => b.together - a.together],
  time: ["newest", (a, b) => b.place - a.place],
};

function table(events, attention, nameOf) {
  const steepest = Math.max(1e-9, ...events.map((event) => Math.abs(event.effect)));
  const most = Math.max(1e-9, ...events.map((event) => event.together));
  const body = el("tbody", {});
  const order = el("select", { id: "why-order" }, Object.entries(ORDERS)
    .filter(([name]) => attention || name !== "together")
    .map(([name, [label]]) => el("option", { value: name }, label)));
  let all = false;
  const more = el("button", { type: "button", class: "quiet", onclick: () => { all = !all; draw(); } });
  function draw() {
    const sorted = [...events].sort(ORDERS[order.value][1]);
    fill(body, (all ? sorted : sorted.slice(0, LISTED)).map((event) => el("tr", {},
      el("th", { scope: "row", class: "item" }, nameOf(event.item_id)),
      el("td", {}, feedback(event.feedback)),
      el("td", { class: "when" }, el("time", {}, day(event.timestamp))),
      el("td", { class: "score" }, diverging(event.effect / steepest), el("span", { class: `number ${event.effect > 0 ? "up" : "down"}` }, signed(event.effect, 4))),
      attention ? el("td", { class: "score" }, el("span", { class: "rail", "aria-hidden": "true" }, el("i", { style: { width: `${(100 * event.together) / most}%` } })),
        el("span", { class: "number" }, percent(event.together))) : null)));
    more.hidden = events.length <= LISTED;
    more.textContent = all ? `Only the first ${LISTED}` : `All ${events.length}`;
  }
  order.addEventListener("change", draw);
  draw();
  return el("div", { class: "effects-table" },
    el("div", { class: "line spread" }, el("label", {}, "First the ", order), more),
    el("table", {}, el("caption", { class: "hidden" }, "Events and what they do to the score"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Event"), el("th", { scope: "col" }, "Feedback"), el("th", { scope: "col", class: "when" }, "Day"),
        el("th", { scope: "col", class: "score" }, "Effect"), attention ? el("th", { scope: "col", class: "score" }, "Attention") : null)),
      body));
}

function diverging(share) {
  const width = `${50 * Math.abs(share)}%`;
  return el("span", { class: "rail middle", "aria-hidden": "true" },
    el("i", { class: share > 0 ? "up" : "down", style: share > 0 ? { left: "50%", width } : { right: "50%", width } }));
}

export function closeWhy() {
  fill(byId("why"));
}
