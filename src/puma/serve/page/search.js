// Searching: runs a query, its further pages, and remembers what each step of the browser's history showed, so that
// going back is immediate and also works for pictures.

import { call, Problem } from "./api.js";
import { dataUri } from "./pictures.js";
import { askable, fromAddress, toAddress } from "./state.js";

const PAGE = 24;
const SHELF = 24;
const SPREAD = 4;
const MOST = Number(document.documentElement.dataset.maxHits) || 1000;

/** @typedef {{key: string, query: object, hits: object[], more: boolean, tookMs: number|null, scroll: number}} Visit */

/** @type {Visit|null} */
let now = null;
let running = null;
const visits = new Map();
let show = {};

/**
 * @param {{home, loading, hits, problem, query}} view what is called: home(visit), loading(after), hits(visit, from),
 *   problem(problem, again, visit), query(query) when the query came from the address; and firstIndex(), kinds(index)
 *   that it holds.
 */
export function startSearch(view) {
  show = view;
  history.scrollRestoration = "manual";
  window.addEventListener("popstate", (event) => arrive(event.state?.key));
  window.addEventListener("pagehide", leave);
}

/** Show what the address asks for: on opening the page, and after back and forward. */
export function arrive(key) {
  leave();
  for (const sheet of document.querySelectorAll("dialog[open]")) sheet.close();
  const kept = key && visits.get(key);
  if (kept) {
    stop();
    now = kept;
    show.query(now.query);
    if (now.tookMs === null) return load(now);
    present(now);
    window.scrollTo(0, now.scroll);
    return undefined;
  }
  const query = fromAddress(location.search);
  const lost = Boolean(history.state?.picture);
  now = visit(query);
  history.replaceState({ key: now.key, picture: false }, "");
  show.query(query);
  return load(now, lost);
}

/** Ask this; a step of its own in the history, unless it is the same address without a picture. */
export function ask(query) {
  leave();
  const address = toAddress(query, show.firstIndex?.());
  const here = location.search || location.pathname;
  const same = address === here && !query.picture && !now?.query.picture;
  now = visit(query);
  history[same ? "replaceState" : "pushState"]({ key: now.key, picture: Boolean(query.picture) }, "", address);
  window.scrollTo(0, 0);
  return load(now);
}

/** The next page of what is shown. */
export async function askMore() {
  const visit = now;
  if (!visit?.more || running) return;
  const from = visit.hits.length;
  await guarded(visit, async (signal) => {
    show.loading(true);
    const answer = await post(visit.query, from, signal);
    take(visit, answer);
    show.hits(visit, from);
  });
}

/** Give up what is awaited; true if there was something. */
export function stop() {
  const was = running;
  running = null;
  was?.abort();
  return Boolean(was);
}

export const current = () => now;

async function load(visit, lost = false) {
  await guarded(visit, async (signal) => {
    if (!askable(visit.query)) {
      Object.assign(visit, { hits: await shelf(visit.query, signal), more: false, tookMs: 0 });
      show.home(visit, lost);
      return;
    }
    show.loading(false);
    const answer = await post(visit.query, 0, signal);
    visit.hits = [];
    take(visit, answer);
    show.hits(visit, 0);
  });
}

async function guarded(visit, work) {
  stop();
  const own = new AbortController();
  running = own;
  try {
    await work(own.signal);
  } catch (fault) {
    if (fault.name === "AbortError" || running !== own) return;
    running = null;
    const problem = fault instanceof Problem ? fault : new Problem("refused", fault.message);
    show.problem(problem, () => (visit.hits.length && visit.more ? askMore() : load(visit)), visit);
  } finally {
    if (running === own) running = null;
  }
}

async function post(query, offset, signal) {
  const body = { k: PAGE, offset };
  if (query.index) body.index = query.index;
  if (query.text.trim()) body.text = query.text.trim();
  if (query.picture) body.image = await dataUri(query.picture.blob);
  if (query.item) body.item = query.item;
  if (query.minus.length) body.minus = query.minus;
  if (query.modality) body.modality = query.modality;
  if (query.alike) body.group = true;
  return call("search", { body, signal });
}

// Some of everything the index holds, spread over the first of each kind.
async function shelf(query, signal) {
  const kinds = query.modality ? [query.modality] : show.kinds(query.index);
  const each = Math.ceil(SHELF / Math.max(1, kinds.length));
  const answers = await Promise.all(
    kinds.map((modality) => {
      const given = new URLSearchParams({ limit: String(each * SPREAD), modality });
      if (query.index) given.set("index", query.index);
      return call(`items?${given}`, { signal });
    }),
  );
  const rows = answers.map(({ items }) => {
    const stride = Math.max(1, Math.floor(items.length / each));
    return items.filter((item, place) => place % stride === 0).slice(0, each);
  });
  return rows
    .flatMap((row) => row.map((item, place) => ({ item, place })))
    .sort((one, other) => one.place - other.place)
    .map(({ item }) => item);
}

function take(visit, answer) {
  visit.hits = visit.hits.concat(answer.hits);
  visit.more = Boolean(answer.more) && answer.hits.length > 0 && visit.hits.length < MOST;
  visit.tookMs = answer.took_ms ?? 0;
}

function present(visit) {
  if (askable(visit.query)) show.hits(visit, 0);
  else show.home(visit, false);
}

function visit(query) {
  const made = {
    key: crypto.getRandomValues(new Uint32Array(2)).join("-"),
    query,
    hits: [],
    more: false,
    tookMs: null,
    scroll: 0,
  };
  visits.set(made.key, made);
  return made;
}

function leave() {
  if (now) now.scroll = window.scrollY;
}
