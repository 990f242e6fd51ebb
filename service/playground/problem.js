// How a failure is shown: the service's own sentence, where the reader is looking.

import { el } from "./dom.js";

export function problem(error) {
  return el("div", { class: "problem", role: "alert" },
    el("strong", {}, error.title || "Something went wrong in this page"), " ",
    el("span", {}, error.message),
    error.requestId ? el("span", { class: "note" }, ` Request ${error.requestId}.`) : null);
}
