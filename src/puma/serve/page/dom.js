// Making elements and icons. Text always goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

// Strokes on a 24 x 24 field.
const ICONS = {
  search: "M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM15.3 15.3 20 20",
  picture:
    "M4 6.5A1.5 1.5 0 0 1 5.5 5h13A1.5 1.5 0 0 1 20 6.5v11a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 17.5zM4.5 17l4.7-4.7 3.5 3.5 2.3-2.3 4.5 4.5M15.3 8.9v.2",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  theme: "M19.5 14.3A8 8 0 1 1 9.7 4.5a6.4 6.4 0 0 0 9.8 9.8z",
  help: "M9.2 9.3a2.8 2.8 0 1 1 4.3 2.4c-1 .6-1.5 1.1-1.5 2.3M12 17v.2",
  like: "M4.5 10.5c2.5-3.4 5-3.4 7.5-1.2s5 2.2 7.5-1.2M4.5 16.5c2.5-3.4 5-3.4 7.5-1.2s5 2.2 7.5-1.2",
  minus: "M12 4.5a7.5 7.5 0 1 1 0 15 7.5 7.5 0 0 1 0-15zM8.5 12h7",
  next: "M9.5 5.5 16 12l-6.5 6.5",
  previous: "M14.5 5.5 8 12l6.5 6.5",
  nothing: "M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM15.3 15.3 20 20M8 10.5h5",
  fault: "M12 4.5 20.5 19h-17zM12 10v4.2M12 16.7v.1",
  offline: "M4 10a12 12 0 0 1 16 0M7 13.3a7.5 7.5 0 0 1 10 0M12 17.5v.1M5 5l14 14",
  key: "M14.5 4.5a5 5 0 1 1-3.7 8.3L5 18.5V20h3v-2h2v-2l1.8-1.8M15.5 8.5v.1",
  shelf: "M5 4.5v15M19 4.5v15M5 9.5h14M5 15.5h14M8 6v3.5M11 6v3.5M14.5 12v3.5",
  wait: "M12 4.5a7.5 7.5 0 1 1 0 15 7.5 7.5 0 0 1 0-15zM12 8v4.5l3 1.8",
};

/** An element. Keys that start with "on" are listeners, "data" is a dataset; true and false: with or without it. */
export function make(tag, given = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "data") Object.assign(node.dataset, value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

/** A drawn icon; hidden from screen readers, so its button needs a name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A small picture on its matte, whose colour its white ground takes. */
export function photo(source, given = {}) {
  return make("span", { class: "matte" }, make("img", { src: source, alt: "", draggable: "false", ...given }));
}

export const by = (id) => document.getElementById(id);

/** The service gives paths from its root; below a proxy's prefix they must start from the page. */
export const local = (path) => new URL(path.replace(/^\/+/, ""), new URL(".", document.baseURI)).href;
