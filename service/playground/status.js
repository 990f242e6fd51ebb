// The status page: a look each second, and what happened between them.

import { models, showKeyButton } from "./api.js";
import { histogram, table, tile } from "./charts.js";
import { ago, byId, count, el, fill, milliseconds } from "./dom.js";
import { between, byRoute, quantile, since, size, sum } from "./numbers.js";
import { problem } from "./problem.js";
import { listen } from "./stream.js";
import { waterfall } from "./waterfall.js";

const KEPT = 120;  // looks: two minutes
const MINUTE = 60;
const MODELS_EVERY_MS = 5000;
const RANK = "/v1/rank";
const STATES = ["hit", "partial", "stale", "cold", "inline", "away"];

const looks = [];
const lastSeen = new Map();
let loaded = [];

function take(look) {
  const before = looks.at(-1);
  if (before && sum(byRoute(look.requests)) < sum(byRoute(before.requests))) looks.length = 0;  // started anew
  for (const [type, times] of Object.entries(since(before?.problems ?? look.problems, look.problems))) if (times) lastSeen.set(type, look.at);
  looks.push(look);
  if (looks.length > KEPT) looks.shift();
  draw();
}

/** Something of every pair of neighbours, oldest first. */
const steps = (of) => looks.slice(1).map((look, place) => of(looks[place], look, Math.max(0.1, look.at - looks[place].at)));

function draw() {
  const now = looks.at(-1);
  const past = looks[Math.max(0, looks.length - 1 - MINUTE)];
  const recent = looks[Math.max(0, looks.length - 6)];
  const span = Math.max(0.1, now.at - recent.at);
  const minute = between(past.seconds.routes[RANK], now.seconds.routes[RANK]);
  fill(byId("tiles"), tiles(now, past, recent, span, minute));
  drawLatency(now, past);
  drawCache(now, past);
  drawStore(now);
  drawModels(now);
  drawProblems(now, past);
  drawRuns(now);
}

function tiles(now, past, recent, span, minute) {
  const ranked = (before, after) => (byRoute(after.requests)[RANK] ?? 0) - (byRoute(before.requests)[RANK] ?? 0);
  const recorded = (before, after) => sum(since(before.events, after.events));
  const p = (share) => (before, after) => quantile(between(before.seconds.routes[RANK], after.seconds.routes[RANK]), share);
  const waited = (before, after) => quantile(between(before.seconds.stages.queue, after.seconds.stages.queue), 0.99);
  const hits = (before, after) => hitRate(since(before.cache, after.cache));
  const one = (title, value, unit, of) => tile(title, value, unit, steps(of), KEPT);
  const rate = (value) => (value / span).toFixed(value / span < 10 ? 1 : 0);
  const hit = hits(past, now);
  return [
    one("Ranked", rate(ranked(recent, now)), "/s", (a, b, s) => ranked(a, b) / s),
    one("Events stored", rate(recorded(recent, now)), "/s", (a, b, s) => recorded(a, b) / s),
    one("Rank p50", ...split(quantile(minute, 0.5)), p(0.5)),
    one("Rank p99", ...split(quantile(minute, 0.99)), p(0.99)),
    one("Hit rate", hit === null ? "–" : (100 * hit).toFixed(hit > 0.9995 ? 0 : 1), "%", hits),
    one("Queue p99", ...split(waited(past, now)), waited),
    one("In flight", count(Math.max(0, now.in_flight)), "", (_, b) => Math.max(0, b.in_flight)),
  ];
}

/** Of requests that asked the store for somebody. */
function hitRate(states) {
  const { inline, ...asked } = states;
  const all = sum(asked);
  return all ? (asked.hit ?? 0) / all : null;
}

const split = (seconds) => (seconds === null ? ["–", ""] : milliseconds(seconds * 1e3).split(" "));

function drawLatency(now, past) {
  const route = byId("route");
  const known = Object.keys(now.seconds.routes).filter((name) => name.startsWith("/v") && name !== "/v1/status/events").sort();
  if (!known.includes(RANK)) known.unshift(RANK);
  if (known.join() !== [...route.options].map((option) => option.value).join()) {
    const chosen = route.value || RANK;
    fill(route, known.map((name) => el("option", { value: name }, name)));
    route.value = known.includes(chosen) ? chosen : RANK;
  }
  const all = now.seconds.routes[route.value] ?? [];
  const minute = between(past.seconds.routes[route.value], all);
  const [buckets, when] = size(minute) ? [minute, "in the last minute"] : [all, "since the start"];
  const ms = (share) => (size(buckets) ? milliseconds(quantile(buckets, share) * 1e3) : "–");
  fill(byId("latency"),
    el("p", { class: "summary" }, el("span", {}, el("b", {}, count(size(buckets))), ` requests ${when}`),
      el("span", {}, "p50 ", el("b", {}, ms(0.5))), el("span", {}, "p90 ", el("b", {}, ms(0.9))), el("span", {}, "p99 ", el("b", {}, ms(0.99)))),
    histogram(buckets, `${route.value} ${when}`),
    el("p", { class: "note" }, "Milliseconds, upper edge of each column."),
    stages(now, past));
}

/** The middle wait in each stage. */
function stages(now, past) {
  const middle = {};
  for (const stage of ["cache", "queue", "run"]) {
    const minute = between(past.seconds.stages[stage], now.seconds.stages[stage]);
    middle[stage] = (quantile(size(minute) ? minute : now.seconds.stages[stage] ?? [], 0.5) ?? 0) * 1e3;
  }
  return sum(middle) ? [el("p", { class: "note apart" }, "Half of all requests spend no longer than this in each stage."), waterfall(middle)] : null;
}

function drawCache(now, past) {
  const minute = since(past.cache, now.cache);
  const [states, when] = sum(minute) ? [minute, "last minute"] : [now.cache, "since the start"];
  if (!sum(states)) return fill(byId("cache"), el("p", { class: "empty" }, "Nobody has asked for a ranking yet."));
  const known = STATES.filter((state) => state in now.cache);
  fill(byId("cache"),
    el("div", { class: "share", "aria-hidden": "true" }, known.map((state) => el("span", { class: state, style: { "flex-grow": String(states[state] ?? 0) } }))),
    table("Rank requests by what the cache had", ["State", when, "All"], known.map((state) => [
      [el("i", { class: `dot ${state}`, "aria-hidden": "true" }), state],
      `${((100 * (states[state] ?? 0)) / sum(states)).toFixed(1)}%`, count(now.cache[state])])),
    sum(now.degraded) ? table("Answers that left something out", ["Left out", "", "All"],
      Object.entries(now.degraded).map(([reason, times]) => [reason, "", count(times)])) : null);
}

function drawStore(now) {
  const { kind, answers, ping_ms: ping } = now.store;
  const facts = [
    ["Kind", el("code", {}, kind)],
    ["Health", el("span", { class: answers ? "badge good" : "badge bad" }, answers ? "answers" : "away")],
    ["Ping", milliseconds(ping)],
    ["Workers", count(now.workers)],
    ...Object.entries(now.events).map(([status, times]) => [`Events ${status}`, count(times)]),
    ...Object.entries(now.store_events).map(([event, times]) => [event.replaceAll("_", " "), count(times)]),
  ];
  fill(byId("store"), el("dl", { class: "facts" }, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}

function drawModels(now) {
  const shown = loaded.length ? loaded : [{ ...now.model, active: true, state: "ready" }];
  const share = (model) => [model.canary_percent ? `canary ${model.canary_percent}%` : "", model.shadow_percent ? `shadow ${model.shadow_percent}%` : ""].filter(Boolean).join(", ");
  fill(byId("models"), table("Loaded models", ["Name", "Version", "Fingerprint", "State"], shown.map((model) => [
    [el("b", {}, model.name), model.family ? ` ${model.family}` : ""], el("code", {}, model.version), el("code", { class: "fingerprint" }, model.fingerprint),
    [el("span", { class: model.state === "failed" ? "badge bad" : model.active ? "badge good" : "badge" }, model.active ? "active" : model.state), " ", share(model)],
  ]), false));
}

function drawProblems(now, past) {
  const minute = since(past.problems, now.problems);
  const types = Object.entries(now.problems).sort((a, b) => minute[b[0]] - minute[a[0]] || b[1] - a[1]);
  fill(byId("problems"), types.length
    ? table("Problems told to callers", ["Type", "Last minute", "Last seen", "All"], types.map(([type, times]) => [
      el("code", {}, type), count(minute[type]), lastSeen.has(type) ? `${ago(Math.max(0, now.at - lastSeen.get(type)))} ago` : "before you came", count(times)]))
    : el("p", { class: "empty" }, "None since the service started."));
}

function drawRuns(now) {
  const rows = Object.entries(now.runs).filter(([, { runs }]) => runs).map(([graph, { runs, jobs, seconds }]) => [
    el("code", {}, graph), count(runs), (jobs / runs).toFixed(2), milliseconds((1e3 * seconds) / runs)]);
  fill(byId("runs"), table("Runs of each graph since the start", ["Graph", "Runs", "Jobs per run", "Mean run"], rows));
}

function tellState(state, error) {
  const place = byId("live");
  place.className = `model live ${state}`;
  place.lastElementChild.textContent = state === "on" ? "live, all workers together" : "not connected, trying again";
  fill(byId("problem"), error ? problem(error) : null);
}

async function watchModels() {
  try {
    loaded = await models();
    if (!loaded.length) return;
  } catch {
    loaded = [];  // the line above says what is the matter
  }
  setTimeout(watchModels, MODELS_EVERY_MS);
}

showKeyButton();
byId("route").addEventListener("change", () => looks.length && draw());
watchModels();
listen("v1/status/events", take, tellState);
