// Where the milliseconds of an answer went, as one bar and its legend.

import { el, milliseconds } from "./dom.js";

const NAMES = {
  cache: "cache: read the user",
  queue: "queue: wait for the engine",
  run: "run: the model",
  rest: "rest: reading, sorting, writing",
};

/** Stages in milliseconds; `total` is the service's, `elapsed` the browser's, which may be unknown. */
export function waterfall(stages, elapsed = null) {
  const { cache = 0, queue = 0, run = 0 } = stages;
  const total = stages.total ?? 0;
  const parts = { cache, queue, run };
  if (stages.total !== undefined) parts.rest = Math.max(0, total - cache - queue - run);
  const told = Object.entries(parts).map(([name, value]) => `${NAMES[name]} ${milliseconds(value)}`);
  return el("figure", { class: "waterfall" },
    el("div", { class: "bar", role: "img", "aria-label": told.join(", ") },
      Object.entries(parts).map(([name, value]) =>
        el("span", { class: `stage ${name}`, style: { "flex-grow": String(value) }, title: `${NAMES[name]} ${milliseconds(value)}` }))),
    el("figcaption", { "aria-hidden": "true" },
      Object.entries(parts).map(([name, value]) =>
        el("span", { class: "key" }, el("i", { class: `stage ${name}` }), NAMES[name].split(":")[0], " ", el("b", {}, milliseconds(value)))),
      elapsed === null ? null : el("span", { class: "key" }, "then network and browser ", el("b", {}, milliseconds(Math.max(0, elapsed - total))))));
}
