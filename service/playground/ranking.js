// The ranked candidates as a table: scores, how they moved, and what can be done with each.

import { el, fill, hidden, score, signed } from "./dom.js";

/**
 * `shown`: {answer, candidates, nameOf, tasks, before, beside}. `before` and `beside` are answers for
 * the same candidates: what was said last time, and what another model or no history would say.
 * `act`: {why, record, remove}.
 */
export function ranking(shown, act) {
  const { answer, tasks, beside } = shown;
  const rows = placed(answer, shown.candidates, tasks);
  const before = shown.before && placed(shown.before, shown.candidates, tasks);
  const other = beside && placed(beside.answer, shown.candidates, tasks);
  const rankOf = (list) => new Map(list?.map((row) => [row.id, row]));
  const earlier = rankOf(before);
  const others = rankOf(other);
  const unknown = new Set(answer.unknown_items.map(String));
  const head = el("tr", {},
    el("th", { scope: "col", class: "place" }, "#"),
    el("th", { scope: "col" }, "Item"),
    tasks.map((task) => el("th", { scope: "col", class: "score" }, task)),
    beside ? el("th", { scope: "col", class: "score beside" }, `${tasks[0]}, ${beside.name}`) : null,
    el("th", { scope: "col", class: "record" }, `record ${tasks[0]}`),
    el("th", { scope: "col", class: "why" }, hidden("Explanation")),
    el("th", { scope: "col", class: "drop" }, hidden("Remove")));
  const body = rows.map((row) => line(row, shown, act, earlier.get(row.id), others.get(row.id), unknown.has(row.id)));
  return el("table", { class: columnsOf(tasks, beside) > 2 ? "ranking many" : "ranking" }, el("caption", { class: "hidden" }, "Candidates, best first"),
    el("thead", {}, head), el("tbody", {}, body));
}

const columnsOf = (tasks, beside) => tasks.length + (beside ? 1 : 0);

function line(row, { nameOf, tasks, beside }, act, earlier, other, isUnknown) {
  const columns = columnsOf(tasks, beside);
  const name = nameOf(row.id);
  const record = (value) => el("button", { type: "button", class: value ? "mark yes" : "mark no",
    "aria-label": `Record ${name} as shown, ${tasks[0]} = ${value}`, title: `store an event: shown, ${tasks[0]} = ${value}`,
    onclick: () => act.record(row.id, value) }, value ? "✓" : "✕");
  return el("tr", { "data-item": row.id },
    el("td", { class: "place" }, String(row.place), moved(earlier, row)),
    el("th", { scope: "row", class: "item" }, el("span", { class: "name" }, name), " ",
      name === row.id ? null : el("span", { class: "id" }, row.id),
      isUnknown ? el("span", { class: "badge", title: "outside the vocabulary: scored by shared rows" }, "not in the model") : null),
    tasks.map((task) => el("td", { class: "score", "data-name": columns > 1 ? task : null }, bar(row.scores[task], earlier?.scores[task], score(row.scores[task])))),
    beside ? el("td", { class: "score beside", "data-name": `${tasks[0]}, ${beside.name}` }, other ? bar(other.scores[tasks[0]], null, score(other.scores[tasks[0]])) : "–",
      other ? shift(other.place - row.place, "than there") : null) : null,
    el("td", { class: "record" }, record(1), record(0)),
    el("td", { class: "why" }, el("button", { type: "button", class: "quiet", "aria-label": `Why this score for ${name}`, onclick: () => act.why(row.id) }, "why?")),
    el("td", { class: "drop" }, el("button", { type: "button", class: "quiet", "aria-label": `Remove ${name}`, onclick: () => act.remove(row.id) }, "×")));
}

/** Score as a bar, with a tick where it was before. */
function bar(value, was, text) {
  return el("span", { class: "meter" },
    el("span", { class: "rail", "aria-hidden": "true" },
      el("i", { style: { width: `${100 * value}%` } }),
      was === undefined || was === null ? null : el("b", { style: { left: `${100 * was}%` } })),
    el("span", { class: "number" }, text,
      was === undefined || was === null || Math.abs(value - was) < 5e-4 ? null
        : el("small", { class: value > was ? "up" : "down" }, signed(value - was))));
}

function moved(earlier, row) {
  return earlier ? shift(earlier.place - row.place, "than before") : null;
}

function shift(places, than) {
  if (!places) return null;
  return el("small", { class: places > 0 ? "move up" : "move down" },
    el("span", { "aria-hidden": "true" }, `${places > 0 ? "▲" : "▼"}${Math.abs(places)}`),
    hidden(` ${Math.abs(places)} places ${places > 0 ? "higher" : "lower"} ${than}`));
}

/** Candidates in the order of an answer's ranking, each with its scores. */
function placed(answer, candidates, tasks) {
  const at = new Map(candidates.map((id, place) => [id, place]));
  return answer.ranking.map((id, place) => ({
    id: String(id),
    place: place + 1,
    scores: Object.fromEntries(tasks.map((task) => [task, answer.scores[task]?.[at.get(String(id))] ?? 0])),
  }));
}

/** Puts a new table in the place of the old one: rows glide to where they are now, focus stays. */
export function redraw(place, table) {
  const label = place.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  const tops = new Map([...place.querySelectorAll("[data-item]")].map((row) => [row.dataset.item, row.getBoundingClientRect().top]));
  fill(place, table);
  if (label) (place.querySelector(`[aria-label="${CSS.escape(label)}"]`) ?? place).focus({ preventScroll: true });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const row of place.querySelectorAll("[data-item]")) {
    const way = (tops.get(row.dataset.item) ?? row.getBoundingClientRect().top) - row.getBoundingClientRect().top;
    if (way) row.animate([{ transform: `translateY(${way}px)` }, { transform: "none" }], { duration: 380, easing: "ease-out" });
  }
}
