// What the pages ask the service. A key lives in this tab's session and travels in a header only.

import { byId, el } from "./dom.js";

const PLACE = "marmot-key";

/** What the service said is wrong: a title, a sentence, and the request's id to look for in its log. */
export class Refusal extends Error {
  constructor(status, problem, requestId) {
    super(problem.detail || problem.title || `The service answered ${status}`);
    this.status = status;
    this.title = problem.title || `Status ${status}`;
    this.requestId = requestId;
  }
}

function headers() {
  const key = sessionStorage.getItem(PLACE);
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** A response that is fine; asks for a key where one is missing, and tries again. */
export async function reach(path, options = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Refusal(0, { title: "No answer", detail: "The service does not answer. Is it running?" });
    }
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({}));
    const problem = told.results?.[0]?.problem ?? told;  // where no event was stored, each says why
    if (answer.status === 401 && (await askForKey(problem.detail))) continue;
    throw new Refusal(answer.status, problem, answer.headers.get("x-request-id"));
  }
}

export async function get(path, query = []) {
  const words = new URLSearchParams(query).toString();
  return (await reach(words ? `${path}?${words}` : path)).json();
}

/** The answer, where its milliseconds went by the service's own account, and how long it took here. */
export async function post(path, body) {
  const began = performance.now();
  const answer = await reach(path, {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" },
  });
  const elapsed = performance.now() - began;
  return { answer: await answer.json(), stages: stagesOf(answer.headers.get("server-timing")), elapsed };
}

export function stagesOf(header) {
  const found = {};
  for (const part of (header || "").split(",")) {
    const [name, duration] = part.trim().split(";dur=");
    if (duration) found[name] = Number(duration);
  }
  return found;
}

/** Loaded models, or none where the service does not tell: asked only where it says it can be. */
export async function models() {
  const { paths } = await get("openapi.json");
  return "/v1/models" in paths ? (await get("v1/models")).models : [];
}

let asking = null;

/** One dialog, however many requests want a key at once. */
function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const input = el("input", { type: "password", id: "key-input", autocomplete: "off", required: true });
    const done = (given) => { dialog.close(); dialog.remove(); asking = null; showKeyButton(); resolve(given); };
    const form = el("form", { onsubmit: (event) => {
      event.preventDefault();
      sessionStorage.setItem(PLACE, input.value.trim());
      done(true);
    } },
    el("h2", { id: "key-title" }, "This service asks for a key"),
    sessionStorage.getItem(PLACE) ? el("p", { class: "problem" }, reason || "The key is not known") : null,
    el("p", {}, "It needs the scopes ", el("code", {}, "read"), " and ", el("code", {}, "rank"), ", and ",
      el("code", {}, "events"), " to record events. ", el("code", {}, "marmot key"), " makes one."),
    el("label", { for: "key-input" }, "Key"), input,
    el("p", { class: "note" }, "Kept in this tab until it is closed; sent in a header, never in an address."),
    el("div", { class: "line" }, el("button", { type: "submit", class: "main" }, "Use this key"),
      el("button", { type: "button", class: "quiet", onclick: () => done(false) }, "Not now")));
    const dialog = el("dialog", { "aria-labelledby": "key-title", oncancel: (event) => { event.preventDefault(); done(false); } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}

/** With a key in use there is a way to be rid of it. */
export function showKeyButton() {
  const button = byId("key-button");
  if (!button) return;
  button.hidden = !sessionStorage.getItem(PLACE);
  button.textContent = "Forget the key";
  button.onclick = () => { sessionStorage.removeItem(PLACE); location.reload(); };
}
