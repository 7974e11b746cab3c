// The grid of cards: one stop for Tab, arrows inside, Enter opens, M and - act.

import { card, skeleton } from "./cards.js";
import { by } from "./dom.js";

const grid = by("grid");
let hits = [];
let on = { open: () => {}, more: () => {}, without: () => {}, leave: () => {} };

/** @param {{open, more, without, leave}} listeners called with (hit, place); leave with nothing. */
export function startGrid(listeners) {
  on = listeners;
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (button) act(button.dataset.act, placeOf(button));
  });
  grid.addEventListener("keydown", key);
  grid.addEventListener("focusin", (event) => {
    const place = placeOf(event.target);
    if (place !== null) enter(place);
  });
}

/** Show these hits; with `from` only those from this place on are added. */
export function fill(given, from = 0) {
  hits = given;
  for (const bone of grid.querySelectorAll(".bone")) bone.remove();
  const fresh = hits.slice(from).map((hit, place) => card(hit, from + place));
  if (from) grid.append(...fresh);
  else grid.replaceChildren(...fresh);
  grid.removeAttribute("aria-busy");
  if (!from && hits.length) enter(0);
}

/** Skeletons, instead of what is there or after it. */
export function awaitCards(number, after = false) {
  const bones = Array.from({ length: number }, skeleton);
  if (after) grid.append(...bones);
  else {
    hits = [];
    grid.replaceChildren(...bones);
  }
  grid.setAttribute("aria-busy", "true");
}

export function clear() {
  fill([]);
}

/** Put the focus on a card. */
export function focusCard(place) {
  tiles()[place]?.focus();
}

export const holdsFocus = () => grid.contains(document.activeElement);

const tiles = () => [...grid.querySelectorAll(".card:not(.bone) > .tile")];

function placeOf(node) {
  const found = node.closest(".card[data-place]");
  return found ? Number(found.dataset.place) : null;
}

function act(what, place) {
  if (place !== null && hits[place]) on[what](hits[place], place);
}

// Only one card is in the tab order, with its buttons: the grid is one stop, whatever its length.
function enter(place) {
  for (const node of grid.children) {
    const here = Number(node.dataset.place) === place;
    for (const button of node.querySelectorAll("button")) button.tabIndex = here ? 0 : -1;
  }
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const place = placeOf(event.target);
  if (place === null) return;
  if (event.key === "Escape") {
    event.preventDefault();
    on.leave();
  } else if (event.key === "m" || event.key === "M") {
    event.preventDefault();
    act("more", place);
  } else if (event.key === "-") {
    event.preventDefault();
    act("without", place);
  } else {
    const next = stepFrom(place, event.key);
    if (next === null) return;
    event.preventDefault();
    if (next < 0) on.leave();
    else focusCard(Math.min(next, hits.length - 1));
  }
}

// Where an arrow leads; below 0: out of the grid, upwards. null: not a key of ours.
function stepFrom(place, name) {
  const all = tiles();
  const columns = all.filter((tile) => tile.parentElement.offsetTop === all[0].parentElement.offsetTop).length;
  switch (name) {
    case "ArrowRight":
      return place + 1;
    case "ArrowLeft":
      return Math.max(0, place - 1);
    case "ArrowDown":
      return place + columns;
    case "ArrowUp":
      return place - columns;
    case "Home":
      return 0;
    case "End":
      return all.length - 1;
    default:
      return null;
  }
}
