// The playground: one user, some candidates, their ranking, and what an event changes.

import { get, models, post, showKeyButton } from "./api.js";
import { ago, byId, count, el, fill, milliseconds } from "./dom.js";
import { finder } from "./finder.js";
import { problem } from "./problem.js";
import { ranking, redraw } from "./ranking.js";
import { timeline } from "./timeline.js";
import { waterfall } from "./waterfall.js";
import { closeWhy, why } from "./why.js";

const DRAWN = 20;
const EVENTS = 200;
const AT_ONCE = 100;  // names that one request asks for

const names = new Map();
const nameOf = (id) => names.get(String(id)) || String(id);

const state = {
  userId: "",
  events: [],  // newest first
  fresh: new Set(),
  candidates: [],
  answer: null,
  before: null,
  beside: null,
  timing: null,
  explained: null,
  turn: 0,
};

const keyOf = (event) => `${event.item_id} ${event.timestamp}`;

/** The moment that is asked about; without one the service says now. */
function moment() {
  const chosen = byId("moment").value;
  if (chosen === "given" && byId("given").value) return { timestamp: Math.max(0, Math.floor(Date.parse(`${byId("given").value}Z`) / 1000)) };
  if (chosen === "after" && state.events.length) return { timestamp: state.events[0].timestamp + 1 };
  return {};
}

async function learnNames(ids) {
  const unknown = [...new Set(ids.map(String))].filter((id) => !names.has(id));
  for (let at = 0; at < unknown.length; at += AT_ONCE) {
    const some = unknown.slice(at, at + AT_ONCE);
    const { items } = await get("v1/items", some.map((id) => ["id", id]));
    for (const id of some) names.set(id, "");
    for (const item of items) names.set(item.item_id, item.name || "");
  }
}

async function openUser(userId) {
  state.userId = userId;
  state.fresh.clear();
  state.before = null;
  byId("user-id").value = userId;
  for (const chip of byId("users").children) chip.setAttribute("aria-pressed", String(chip.textContent === userId));
  closeWhy();
  await readTimeline();
  await rank();
}

async function readTimeline() {
  const found = await get(`v1/users/${encodeURIComponent(state.userId)}/timeline`, [["limit", String(EVENTS)]]);
  state.events = found.events;
  await learnNames(found.events.map((event) => event.item_id));
  fill(byId("timeline"), timeline(state.userId, state.events, nameOf, (event) => state.fresh.has(keyOf(event))));
}

/** Ranks the candidates, and once more beside if that is wished for. */
async function rank() {
  const mine = ++state.turn;
  if (!state.candidates.length || !state.userId) {
    state.answer = state.before = null;
    return show();
  }
  const candidates = [...state.candidates];
  const asked = { user_id: state.userId, candidates, ...moment() };
  const beside = byId("beside").value;
  const other = beside === "history" ? { history: [] } : { model: { version: beside } };
  const [found, again] = [await post("v1/rank", asked), beside ? await post("v1/rank", { ...asked, ...other }) : null];
  if (mine !== state.turn) return;  // somebody asked for something else meanwhile
  state.answer = found.answer;
  state.timing = found;
  state.ranked = candidates;
  state.beside = again && { answer: again.answer, name: beside === "history" ? "no history" : beside };
  show();
}

function show() {
  const { answer } = state;
  if (!answer) {
    fill(byId("answer"));
    fill(byId("ranking"), el("div", { class: "empty" }, el("p", {}, "No candidates. Find an item above, or take ", el("strong", {}, "20 at random"), ".")));
    return;
  }
  fill(byId("answer"), summary(answer, state.timing), waterfall(state.timing.stages, state.timing.elapsed));
  const tasks = Object.keys(answer.scores);
  const shown = { answer, candidates: state.ranked, nameOf, tasks, before: state.before, beside: state.beside };
  redraw(byId("ranking"), ranking(shown, { why: attempt(explain), record: attempt(record), remove: attempt(remove) }));
}

function summary(answer, { stages }) {
  const { state: hit, records, recomputed, age_s: age } = answer.cache;
  return el("p", { class: "summary" },
    el("span", { class: `badge ${hit}` }, hit),
    el("span", {}, el("b", {}, count(records)), records === 1 ? " record" : " records"),
    recomputed ? el("span", {}, el("b", {}, count(recomputed)), " computed anew") : null,
    age === null ? null : el("span", {}, "written ", el("b", {}, ago(age)), " ago"),
    el("span", {}, el("b", {}, milliseconds(stages.total)), " in the service"),
    answer.degraded.map((reason) => el("span", { class: "badge warn" }, reason)));
}

async function record(itemId, value) {
  const task = Object.keys(state.answer.scores)[0];
  const timestamp = moment().timestamp ?? Math.floor(Date.now() / 1000);
  const event = { user_id: state.userId, item_id: itemId, timestamp, feedback: { [task]: value } };
  const { answer } = await post("v1/events", { events: [event] });
  if (answer.results[0].problem) throw Object.assign(new Error(answer.results[0].problem.detail), answer.results[0].problem);
  state.fresh.add(keyOf(event));
  state.before = state.answer;
  const explained = state.explained;
  await readTimeline();
  await rank();
  if (explained && byId("why").childElementCount) await explain(explained);
}

async function remove(itemId) {
  state.candidates = state.candidates.filter((id) => id !== itemId);
  state.before = null;
  await rank();
}

async function explain(itemId) {
  const place = byId("why");
  const task = Object.keys(state.answer.scores)[0];
  const asked = { user_id: state.userId, candidates: [itemId], ...moment() };
  state.explained = itemId;
  if (!place.childElementCount) fill(place, el("p", { class: "note" }, "Leaving out each event in turn …"));
  const [{ answer: found }, { answer: bare }] = await Promise.all([post("v1/explain", asked), post("v1/rank", { ...asked, history: [] })]);
  await learnNames(found.events.map((event) => event.item_id));
  if (state.explained !== itemId) return;
  fill(place, why({ name: nameOf(itemId), found, task, bare: bare.scores[task][0], nameOf }, () => {
    closeWhy();
    state.explained = null;
    byId("ranking").querySelector(`[data-item="${CSS.escape(itemId)}"] .why button`)?.focus();
  }));
  place.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  place.focus({ preventScroll: true });
}

async function draw() {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const { items } = await get("v1/items", [["sample", String(seed)], ["limit", String(DRAWN)]]);
  take(items);
  state.candidates = items.map((item) => item.item_id);
  state.before = null;
  await rank();
}

function take(items) {
  for (const item of items) names.set(item.item_id, item.name || "");
}

async function add(item) {
  take([item]);
  if (!state.candidates.includes(item.item_id)) state.candidates.unshift(item.item_id);
  state.before = null;
  await rank();
}

/** The same work, its failure shown where the answer would be. */
function attempt(work) {
  return async (...given) => {
    document.body.setAttribute("aria-busy", "true");
    try {
      byId("problems")?.remove();
      await work(...given);
    } catch (error) {
      const shown = problem(error);
      shown.id = "problems";
      byId("problems")?.remove();
      byId("answer").before(shown);
      if (!error.title) console.error(error);
    } finally {
      document.body.removeAttribute("aria-busy");
    }
  };
}

async function showModels() {
  const [loaded, status] = await Promise.all([models(), get("v1/status")]);
  const active = loaded.find((model) => model.active) || status.model;
  fill(byId("model"), el("b", {}, active.name), " ", el("code", { title: `fingerprint ${active.fingerprint}` }, active.version));
  const others = loaded.filter((model) => !model.active && model.state === "ready");
  byId("beside").append(...others.map((model) => el("option", { value: model.version }, `model ${model.version}`)));
}

async function begin() {
  showKeyButton();
  await showModels();
  const { users } = await get("v1/users", [["limit", "10"]]);
  fill(byId("users"), users.map((userId) => el("button", { type: "button", "aria-pressed": "false", onclick: () => attempt(openUser)(userId) }, userId)));
  const { items } = await get("v1/items", [["sample", "1"], ["limit", String(DRAWN)]]);
  take(items);
  state.candidates = items.map((item) => item.item_id);
  await openUser(users[0] ?? "you");
}

byId("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(openUser)(byId("user-id").value);
});
byId("draw").addEventListener("click", attempt(draw));
byId("clear").addEventListener("click", attempt(async () => { state.candidates = []; await rank(); }));
byId("rank").addEventListener("click", attempt(async () => { state.before = null; await rank(); }));
byId("beside").addEventListener("change", attempt(rank));
byId("given").addEventListener("change", attempt(rank));
byId("moment").addEventListener("change", attempt(async () => {
  byId("given-label").hidden = byId("moment").value !== "given";
  state.before = null;
  await rank();
}));
finder(attempt(add), (error) => attempt(async () => { throw error; })());
attempt(begin)();
