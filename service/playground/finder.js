// Finds items while one types: a combobox over GET /v1/items.

import { get } from "./api.js";
import { byId, el, fill } from "./dom.js";

const WAIT_MS = 120;

export function finder(onPick, onProblem) {
  const input = byId("item-words");
  const list = byId("item-list");
  let timer = 0;
  let asked = 0;
  let items = [];
  let active = -1;

  function close() {
    clearTimeout(timer);
    asked += 1;  // an answer still under way comes too late
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
    active = -1;
  }

  function mark(place) {
    active = place;
    [...list.children].forEach((each, at) => each.setAttribute("aria-selected", String(at === place)));
    if (place < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", list.children[place].id);
      list.children[place].scrollIntoView({ block: "nearest" });
    }
  }

  function pick(item) {
    input.value = "";
    close();
    onPick(item);
  }

  async function look() {
    const mine = ++asked;
    try {
      const found = (await get("v1/items", [["q", input.value.trim()], ["limit", "8"]])).items;
      if (mine !== asked) return;
      items = found;
    } catch (error) {
      close();
      return onProblem(error);
    }
    fill(list, items.length
      ? items.map((item, at) => el("li", { role: "option", id: `found-${at}`, "aria-selected": "false",
          onpointerdown: (event) => { event.preventDefault(); pick(item); } },
        el("span", {}, item.name || item.item_id), el("span", { class: "id" }, item.item_id)))
      : el("li", { role: "option", id: "found-none", "aria-disabled": "true", "aria-selected": "false", class: "none" }, "No item is called that"));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark(items.length ? 0 : -1);
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    if (!input.value.trim()) return close();
    timer = setTimeout(look, WAIT_MS);
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (list.hidden || !items.length) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      mark((active + (event.key === "ArrowDown" ? 1 : items.length - 1)) % items.length);
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      pick(items[active]);
    }
  });
}
