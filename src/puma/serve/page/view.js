// What is shown for each state: first items of an index, waiting, results, nothing, faults.

import { alive } from "./api.js";
import { know } from "./box.js";
import { by } from "./dom.js";
import { awaitCards, clear, fill, focusCard } from "./grid.js";
import { hidePanel, shell, showPanel } from "./panel.js";
import { askable, caption, count, KINDS } from "./state.js";

const SKELETONS_AFTER_MS = 150;
const KNOCK_EVERY_MS = 3000;
let bones = 0;
let knocking = 0;
let fromCard = false;
let indexes = [];
let on = { change: () => {}, reopen: () => {}, restart: () => {} };

/** @param {{change, reopen, restart}} listeners change(part of a query); reopen(): look for indexes; restart() */
export const startView = (listeners) => (on = listeners);
export const showIndexes = (given) => (indexes = given);
/** The next results were asked for from a card: the focus goes back among the cards. */
export const keepFocusInGrid = () => (fromCard = true);

export function say(message, alarm = false) {
  by("status").classList.remove("echo");
  by("status").classList.toggle("alarm", alarm);
  by("status").textContent = message;
}

function settle(view, title) {
  clearTimeout(bones);
  clearInterval(knocking);
  hidePanel();
  document.documentElement.dataset.view = view;
  document.title = title ? `${title} · PUMA` : "PUMA";
  by("more").hidden = true;
  by("more").disabled = false;
  by("share").hidden = true;
  by("results").removeAttribute("aria-busy");
}

export function home(visit, lost) {
  const here = indexes.find(({ name }) => name === visit.query.index) ?? indexes[0];
  settle("home", "");
  by("title").textContent = "Find it by words, by a picture, or by both.";
  fill(visit.hits);
  if (!indexes.length) return noIndex();
  if (!here.rows) return emptyIndex(here);
  if (!visit.hits.length) return nothing(visit.query);
  const what = KINDS.find(([value]) => value === visit.query.modality)[1].toLowerCase();
  const number = visit.query.modality ? here.modalities[visit.query.modality] : here.rows;
  if (lost) return say("The picture of that search is not kept when the page is loaded again. Add it once more.", true);
  return say(`${count(number)} ${visit.query.modality ? what : "items"} in ${here.name}. Some of them:`);
}

export function loading(after) {
  by("results").setAttribute("aria-busy", "true");
  clearTimeout(bones);
  if (after) {
    by("more").disabled = true;
    say("Getting more results…");
    bones = setTimeout(() => awaitCards(6, true), SKELETONS_AFTER_MS);
    return;
  }
  by("more").hidden = true;
  say("Searching…");
  // A quick answer takes the place of what is there; skeletons would only flicker.
  bones = setTimeout(() => {
    settle("results", document.title.split(" · ")[0]);
    by("results").setAttribute("aria-busy", "true");
    awaitCards(15);
  }, SKELETONS_AFTER_MS);
}

export function hits(visit, from) {
  const { query } = visit;
  settle("results", query.text.trim() || "Search");
  by("title").textContent = headline(query);
  fill(visit.hits, from);
  visit.hits.forEach((hit) => know(hit, caption(hit)));
  if (!visit.hits.length) return nothing(query);
  by("more").hidden = !visit.more;
  by("share").hidden = Boolean(query.picture) || !navigator.clipboard;
  const number = visit.hits.length;
  const what = visit.more
    ? `The ${count(number)} best`
    : number === 1
      ? "One result"
      : `${count(number)} results, that is all`;
  say(from || !visit.tookMs ? what : `${what}, in ${Math.max(1, Math.round(visit.tookMs))} ms`);
  if (from) focusCard(from);
  else if (fromCard) focusCard(0);
  fromCard = false;
  return undefined;
}

function headline(query) {
  const parts = [];
  if (query.picture) parts.push("your picture");
  if (query.item) parts.push("an item of the index");
  if (query.text.trim()) parts.push(`“${query.text.trim()}”`);
  return `Results for ${parts.join(" and ")}`;
}

function instead(message, ...panel) {
  clear();
  say(message);
  by("status").classList.add("echo"); // for those who hear the page; the panel says the same to those who see it
  showPanel(...panel);
}

function nothing(query) {
  const buttons = [];
  if (query.modality) buttons.push({ label: "Search in everything", act: () => on.change({ modality: "" }) });
  if (query.minus.length) buttons.push({ label: "Allow all words", act: () => on.change({ minus: [] }) });
  const line = query.modality
    ? "The index may hold nothing of this kind."
    : "The index holds nothing that could be ranked.";
  instead("No results", "nothing", "Nothing found", [line], buttons);
}

function noIndex() {
  const lines = [
    "Make an index of your pictures and texts, then start the service with it:",
    shell("puma index add my.index ~/Pictures"),
    shell("puma serve my.index"),
  ];
  instead("No index", "shelf", "There is nothing to search yet", lines, [{ label: "Look again", act: on.reopen }]);
}

function emptyIndex({ name }) {
  const lines = [
    "Add pictures and texts; they can be found at once:",
    shell(`puma index add ${name}.index ~/Pictures`),
  ];
  instead("The index is empty", "shelf", `“${name}” is empty`, lines, [{ label: "Look again", act: on.reopen }]);
}

function unknownIndex(query) {
  const others = indexes.map(({ name }) => ({
    label: `Search in ${name}`,
    act: () => on.change({ index: name, item: null }),
  }));
  const lines = ["The link may be old, or from another service."];
  instead("No such index", "shelf", `There is no index “${query.index}” here`, lines, others);
}

export function problem(fault, again, visit) {
  settle(askable(visit.query) ? "results" : "home", "");
  if (visit.hits.length) {
    // Further results failed: those that came stay.
    fill(visit.hits);
    by("more").hidden = false;
    return say(`${fault.message} Press “More results” to try again.`, true);
  }
  const retry = { label: "Try again", act: again };
  const lines = [fault.message];
  switch (fault.kind) {
    case "offline":
      return offline(again, retry);
    case "token":
      return instead(
        fault.message,
        "key",
        "This search is private",
        ["It needs its token."],
        [{ ...retry, label: "Enter the token" }],
      );
    case "busy":
      return instead("The service is busy", "wait", "Many are searching right now", lines, [retry]);
    case "server":
      return instead("Something went wrong", "fault", "Something went wrong in the service", lines, [retry]);
    default: {
      const { index } = visit.query;
      if (fault.kind === "missing" && index && !indexes.some(({ name }) => name === index))
        return unknownIndex(visit.query);
      const anew = { label: "Start again", act: on.restart };
      if (fault.code === "image_unusable" && visit.query.picture) return pictureRefused(fault, visit.query, anew);
      if (fault.code === "item_not_found" && visit.query.item) return itemGone(visit.query, anew);
      return instead("This search did not work", "fault", "This search did not work", lines, [retry, anew]);
    }
  }
}

// Trying again would not help with either of these.
function pictureRefused(fault, { picture, text }, anew) {
  const reason = fault.message.replace(/^(image|the picture): /, "");
  const buttons = [{ label: "Choose another picture", act: () => by("pick").click() }];
  if (text.trim()) buttons.push({ label: "Search by the words alone", act: () => on.change({ picture: null }) });
  buttons.push(anew);
  const title = "This picture cannot be used";
  instead(title, "fault", title, [`${picture.name}: ${reason}`], buttons);
}

function itemGone({ item, text }, anew) {
  const lines = [`There is no “${item}”. It may have been removed, or the link is from another service.`];
  const alone = { label: "Search by the words alone", act: () => on.change({ item: null }) };
  const title = "This item is not in the index";
  instead(title, "nothing", title, lines, text.trim() ? [alone, anew] : [anew]);
}

function offline(again, retry) {
  const lines = ["It may have been stopped, or the network is down. This page goes on as soon as it is back."];
  instead("The service does not answer", "offline", "The service does not answer", lines, [retry]);
  knocking = setInterval(async () => {
    if (document.hidden || !(await alive())) return;
    clearInterval(knocking);
    again();
  }, KNOCK_EVERY_MS);
}

/** The user gave up waiting: what was there comes back. */
export function stopped(visit) {
  clearTimeout(bones);
  by("results").removeAttribute("aria-busy");
  fill(visit?.hits ?? []);
  by("more").hidden = !visit?.more;
  by("more").disabled = false;
  say("Stopped.");
}
