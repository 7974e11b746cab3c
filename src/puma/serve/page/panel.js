// What stands in the place of results: nothing found, no index, faults. Each says what to do about it.

import { by, icon, make } from "./dom.js";

const panel = by("panel");

/**
 * @param {string} drawing an icon; @param {string} title
 * @param {(string|Node)[]} lines each becomes a paragraph
 * @param {{label: string, act: () => void}[]} buttons
 */
export function showPanel(drawing, title, lines = [], buttons = []) {
  panel.replaceChildren(
    make("div", { class: "sign" }, icon(drawing)),
    make("h2", {}, title),
    ...lines.map((line) => make("p", {}, line)),
    make(
      "div",
      { class: "choices" },
      ...buttons.map(({ label, act }) => make("button", { type: "button", class: "soft", onclick: act }, label)),
    ),
  );
  panel.hidden = false;
}

export function hidePanel() {
  panel.hidden = true;
  panel.replaceChildren();
}

/** A line of shell, to be copied. */
export const shell = (line) => make("code", {}, line);
