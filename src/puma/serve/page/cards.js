// One card for one hit, and its skeleton. What its buttons do is the grid's and main's business.

import { icon, local, make, photo } from "./dom.js";
import { caption, kindName } from "./state.js";

// A picture of up to this ratio fills its square; a longer one is shown whole.
const FILLS = 1.6;
// A picture of fewer pixels would only be a blur at the card's size.
const TINY = 80;
const SHORT_TEXT = 48;
const MEDIUM_TEXT = 140;

/** @param {object} hit as the service gives it, score null where nothing was searched; @param {number} place from 0 */
export function card(hit, place) {
  const name = caption(hit);
  const pictured = hit.modality !== "text";
  const tile = make(
    "button",
    {
      type: "button",
      class: "tile",
      tabindex: place ? "-1" : "0",
      "data-act": "open",
      "aria-describedby": `facts-${place}`,
    },
    pictured ? picture(hit) : paper(name),
  );
  if (pictured) tile.setAttribute("aria-label", name);
  const words =
    hit.modality === "image" ? make("p", { class: "caption file" }, name) : make("p", { class: "caption" }, name);
  return make(
    "li",
    { class: "card", data: { place, modality: hit.modality, ...(hit.weak ? { weak: "" } : {}) } },
    tile,
    pictured && words,
    make(
      "div",
      { class: "foot" },
      make("p", { class: "facts", id: `facts-${place}` }, ...facts(hit)),
      act("like", "more", `More like this: ${name}`, "More like this"),
      act("minus", "without", `More like this, without a word: ${name}`, "More like this, without a word"),
    ),
  );
}

/** A score as it is shown everywhere: cosine similarity, two decimals, with a bar from 0 to 1. */
export function score(value) {
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", String(Math.min(1, Math.max(0, value))));
  return [
    bar,
    make(
      "span",
      { class: "number", title: `Cosine similarity ${value}` },
      make("span", { class: "unseen" }, "score "),
      value.toFixed(2),
    ),
  ];
}

/** Stands for a card while it is awaited. */
export const skeleton = () =>
  make(
    "li",
    { class: "card bone", "aria-hidden": "true" },
    make("div", { class: "tile" }),
    make("div", { class: "bones" }),
  );

function facts(hit) {
  const kind = make("span", { class: hit.score == null ? "kind" : "unseen" }, kindName(hit.modality));
  if (hit.score == null) return [kind];
  const alike = hit.duplicates?.length;
  const more = alike && make("span", { class: "more", title: "Nearly the same, shown as one" }, `+${alike}`);
  const weak = hit.weak && make("span", { class: "weak", title: "Such scores come where nothing fits, too" }, "weak");
  return [...score(hit.score), more, weak, kind].filter(Boolean);
}

function act(drawing, what, label, title) {
  return make(
    "button",
    { type: "button", class: "icon small", tabindex: "-1", "data-act": what, "aria-label": label, title },
    icon(drawing),
  );
}

function picture(hit) {
  if (!hit.thumbnail) return missing();
  const framed = photo(local(hit.thumbnail), {
    loading: "lazy",
    decoding: "async",
    onload: ({ target }) => {
      const ratio = target.naturalWidth / target.naturalHeight;
      target.classList.toggle("whole", ratio > FILLS || ratio < 1 / FILLS);
      target.classList.toggle("tiny", Math.max(target.naturalWidth, target.naturalHeight) < TINY);
    },
    onerror: () => framed.replaceWith(missing()),
  });
  return framed;
}

const missing = () => make("span", { class: "missing" }, icon("picture"), make("span", {}, "no preview"));

function paper(name) {
  const length = name.length > MEDIUM_TEXT ? "long" : name.length > SHORT_TEXT ? "medium" : "short";
  return make("span", { class: `paper ${length}` }, make("span", { class: "words" }, name));
}
