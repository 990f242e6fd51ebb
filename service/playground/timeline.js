// A user's events, newest first, by day.

import { count, day, el, hidden, minute } from "./dom.js";

const SHOWN = 200;

export function timeline(userId, events, nameOf, isNew) {
  if (!events.length) {
    return [el("h2", {}, "Timeline"),
      el("div", { class: "empty" },
        el("p", {}, el("strong", {}, userId), " has no events yet."),
        el("p", {}, "The ranking is what a newcomer gets. Record an event with ✓ or ✕ beside an item, and a timeline begins."))];
  }
  const list = el("ol", {});
  let last = "";
  for (const event of events.slice(0, SHOWN)) {
    const date = day(event.timestamp);
    if (date !== last) list.append(el("li", { class: "day" }, date));
    last = date;
    list.append(el("li", { class: isNew(event) ? "event fresh" : "event" },
      el("time", {}, minute(event.timestamp)),
      el("span", { class: "name" }, nameOf(event.item_id)),
      feedback(event.feedback)));
  }
  const more = events.length >= SHOWN ? "newest " : "";
  return [el("h2", {}, "Timeline ", el("span", { class: "count" }, `${more}${count(Math.min(events.length, SHOWN))} events`)),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Timeline, newest first, times in UTC" }, list)];
}

/** Each task's mark: 1, 0, or not known, which is a third thing. */
export function feedback(marks) {
  const known = Object.entries(marks);
  if (!known.length) return el("span", { class: "mark none", title: "no feedback" }, "·", hidden(" no feedback"));
  return el("span", { class: "marks" }, known.map(([task, value]) =>
    el("span", { class: value ? "mark yes" : "mark no", title: `${task} = ${value}` },
      value ? "✓" : "✕", known.length > 1 ? ` ${task}` : hidden(` ${task} = ${value}`))));
}
