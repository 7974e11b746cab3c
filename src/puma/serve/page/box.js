// The query box: text, picture or stored item, what to get, index, words to stay away from. It holds the query that is
// being made, and says so when it is to be asked.

import { by, icon, local, make, photo } from "./dom.js";
import { fitPicture, PictureError, pictureIn } from "./pictures.js";
import { askable, count, emptyQuery, KINDS, tidyWords } from "./state.js";

const MOST_WORDS = 16; // that the service takes
const text = by("text");
const word = by("word");
const places = { index: null, known: new Map() };
let query = emptyQuery();
let on = { ask: () => {}, say: () => {}, down: () => {}, stop: () => false };

/** @param {{ask, say, down, stop}} listeners down(): leave towards the results; stop(): true if it was busy */
export function startBox(listeners) {
  on = listeners;
  by("pick").append(icon("picture"));
  by("go").prepend(icon("search"));
  by("kinds").append(...KINDS.map(([value, label], place) => kindChoice(value, label, !place)));
  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    addWord();
    submit();
  });
  text.addEventListener("input", () => (query.text = text.value));
  text.addEventListener("keydown", keyInText);
  word.addEventListener("keydown", keyInWord);
  word.addEventListener("blur", () => addWord() && again());
  by("pick").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => {
    if (by("file").files[0]) usePicture(by("file").files[0]);
    by("file").value = "";
  });
  by("kinds").addEventListener("change", (event) => change({ modality: event.target.value }));
  by("alike").addEventListener("change", () => change({ alike: by("alike").checked }));
  by("index").addEventListener("change", () => change({ index: by("index").value, item: null }));
  startDrops();
}

/** Show this query; nothing is asked. */
export function setQuery(given) {
  query = { ...given, minus: [...given.minus] };
  if (!query.index) query.index = places.index;
  text.value = query.text;
  draw();
}

/** @param {{name, rows, modalities}[]} indexes those that are served */
export function setIndexes(indexes) {
  places.index = indexes[0]?.name ?? null;
  by("index").replaceChildren(
    ...indexes.map(({ name, rows }) => make("option", { value: name }, `${name} · ${count(rows)}`)),
  );
  by("where").hidden = indexes.length < 2;
  places.all = indexes;
  query.index ??= places.index;
  draw();
}

/** Remember how a stored item looks, for the chip that stands for it. */
export const know = (hit, name) => places.known.set(hit.id, { name, thumbnail: hit.thumbnail });
export const knows = (id) => places.known.has(id);
export const redraw = () => draw();
export const focusBox = () => {
  text.focus();
  text.select();
};
export const asked = () => query;

/** Search with this stored item, away from these words. */
export function useItem(id, minus = []) {
  query = { ...query, text: "", picture: null, item: id, minus: tidyWords(minus) };
  text.value = "";
  submit();
}

/** Search with this file, and the text that is there. */
export async function usePicture(file) {
  try {
    const picture = await fitPicture(file);
    query = { ...query, picture, item: null };
    if (picture.scaled) on.say("The picture was large; a smaller copy is sent.");
    submit();
  } catch (fault) {
    if (!(fault instanceof PictureError)) throw fault;
    on.say(fault.message, true);
  }
}

function submit() {
  query.text = text.value;
  draw();
  on.ask({ ...query, minus: [...query.minus] });
}

// A choice was made: it holds at once for what is shown, be it results or the index's first items.
function change(part) {
  query = { ...query, ...part };
  submit();
}

function again() {
  draw();
  if (askable(query)) submit();
}

function addWord() {
  const given = tidyWords(word.value.split(","));
  word.value = "";
  const before = query.minus.length;
  query.minus = tidyWords([...query.minus, ...given]).slice(0, MOST_WORDS);
  return query.minus.length > before;
}

function keyInText(event) {
  if (event.key === "Escape") {
    event.preventDefault();
    if (!on.stop()) query.text = text.value = "";
  } else if (event.key === "ArrowDown") {
    event.preventDefault();
    on.down();
  } else if (event.key === "Backspace" && !text.value && (query.picture || query.item)) {
    event.preventDefault();
    change({ picture: null, item: null });
  }
}

function keyInWord(event) {
  if (event.key === "Enter" || event.key === ",") {
    event.preventDefault();
    if (addWord() || event.key === "Enter") again();
  } else if (event.key === "Backspace" && !word.value && query.minus.length) {
    event.preventDefault();
    query.minus = query.minus.slice(0, -1);
    again();
  } else if (event.key === "Escape") {
    word.value = "";
    text.focus();
  }
}

function startDrops() {
  const veil = by("drop");
  const pictures = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (!file || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    usePicture(file);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    if (pictures(event)) veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) veil.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    veil.hidden = true;
    const file = pictureIn(event.dataTransfer);
    if (event.target === text && !file) return; // dragged text goes into the box
    event.preventDefault();
    if (file) usePicture(file);
    else on.say("That was a link, not a picture. Copy the picture itself and paste it here.", true);
  });
}

function draw() {
  for (const input of by("kinds").querySelectorAll("input")) input.checked = input.value === query.modality;
  by("alike").checked = query.alike;
  if (query.index) by("index").value = query.index;
  const counts = places.all?.find(({ name }) => name === query.index)?.modalities;
  for (const [value] of KINDS) {
    const number = by(`kind-${value || "all"}-count`);
    if (number) number.textContent = counts && value ? count(counts[value] ?? 0) : "";
  }
  by("givens").replaceChildren(...givens());
  by("words").replaceChildren(...query.minus.map(wordChip));
  text.placeholder =
    query.picture || query.item ? "Add words: “like this, but at night”" : "Describe it, or paste a picture";
}

function givens() {
  if (query.picture) return [chip(query.picture.preview, query.picture.name, "Your picture", { picture: null })];
  if (!query.item) return [];
  const { name, thumbnail } = places.known.get(query.item) ?? { name: query.item };
  return [chip(thumbnail && local(thumbnail), name, "Like this", { item: null })];
}

function chip(source, name, what, without) {
  const picture = source && photo(source, { onerror: () => picture.replaceWith(icon("picture")) });
  return make(
    "span",
    { class: "given", title: name },
    picture || icon("like"),
    make(
      "span",
      { class: "name" },
      make("span", { class: "what" }, what),
      make("span", { class: "unseen" }, `: ${name}`),
    ),
    make(
      "button",
      { type: "button", class: "icon small", "aria-label": `Remove: ${name}`, onclick: () => removeGiven(without) },
      icon("close"),
    ),
  );
}

function removeGiven(without) {
  change(without);
  text.focus();
}

function wordChip(chosen) {
  const remove = () => {
    query.minus = query.minus.filter((other) => other !== chosen);
    again();
    word.focus();
  };
  return make(
    "li",
    {},
    make("span", {}, chosen),
    make(
      "button",
      { type: "button", class: "icon small", "aria-label": `No longer without ${chosen}`, onclick: remove },
      icon("close"),
    ),
  );
}

function kindChoice(value, label, first) {
  const id = `kind-${value || "all"}`;
  return make(
    "label",
    {},
    make("input", { type: "radio", name: "modality", value, checked: first }),
    make("span", {}, label, make("small", { id: `${id}-count`, "aria-hidden": "true" })),
  );
}
