// Elements and numbers as text: what every part of the pages needs.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "g", "rect", "line", "path", "polyline", "text", "circle", "title"]);

/** An element; `on…` are listeners, `style` is set property by property, as the page's policy wants. */
export function el(tag, properties = {}, ...children) {
  const made = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) made.style.setProperty(key, each);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...there(children));
  return made;
}

const there = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

export const byId = (id) => document.getElementById(id);

export function fill(place, ...children) {
  place.replaceChildren(...there(children));
}

export const hidden = (text) => el("span", { class: "hidden" }, text);

export function milliseconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const digits = value < 1 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ms`;
}

export function score(value) {
  return value.toFixed(3);
}

export function signed(value, digits = 3) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? `±${text}` : `${value < 0 ? "−" : "+"}${text}`;
}

export function count(value) {
  return Math.round(value).toLocaleString("en");
}

export function day(seconds) {
  return iso(seconds).slice(0, 10);
}

export function minute(seconds) {
  return iso(seconds).slice(11, 16);
}

export function ago(seconds) {
  for (const [name, size] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
  return `${Math.round(seconds)} s`;
}

function iso(seconds) {
  const time = new Date(seconds * 1000);
  return Number.isNaN(time.getTime()) ? "beyond the calendar" : time.toISOString();
}
