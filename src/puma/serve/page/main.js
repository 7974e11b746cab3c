// The page put together: opens with what the address asks for, and joins the box, the grid and the search.

import { call, hooks, signOut } from "./api.js";
import { asked, focusBox, know, knows, redraw, setIndexes, setQuery, startBox, useItem } from "./box.js";
import { askToken, showDetail, showKeys, showWithout } from "./dialogs.js";
import { by, icon } from "./dom.js";
import { focusCard, startGrid } from "./grid.js";
import { arrive, ask, askMore, current, startSearch, stop } from "./search.js";
import { caption, emptyQuery, KINDS } from "./state.js";
import { startTheme } from "./theme-switch.js";
import { hits, home, keepFocusInGrid, loading, problem, say, showIndexes, startView, stopped } from "./view.js";

let indexes = [];

function change(part) {
  const query = { ...asked(), ...part };
  setQuery(query);
  ask(query);
}

function more(hit) {
  know(hit, caption(hit));
  keepFocusInGrid();
  useItem(hit.id);
}

function without(hit) {
  showWithout(hit, (words) => {
    know(hit, caption(hit));
    keepFocusInGrid();
    useItem(hit.id, words);
  });
}

function detail(hit, place) {
  const step = (by) => {
    const next = current().hits[place + by];
    if (!next) return;
    detail(next, place + by);
    focusLater(place + by);
  };
  showDetail({ hit, more, without, step });
}

// The card of the item that was looked at last has the focus once the sheet is closed.
function focusLater(place) {
  by("detail").onclose = () => {
    by("detail").onclose = null;
    if (document.activeElement === document.body || by("grid").contains(document.activeElement)) focusCard(place);
  };
}

async function describeItem(query) {
  if (!query.item || knows(query.item)) return;
  const given = new URLSearchParams({ id: query.item });
  if (query.index) given.set("index", query.index);
  try {
    const item = await call(`item?${given}`);
    know(item, caption(item));
    redraw();
  } catch {
    // the search itself will say what is wrong
  }
}

function startKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("dialog")) return;
    const typing = event.target.matches('input:not([type="radio"]), select, textarea');
    if (event.key === "/" && !typing) {
      event.preventDefault();
      focusBox();
    } else if (event.key === "?" && !typing) {
      event.preventDefault();
      showKeys();
    } else if (event.key === "Escape") giveUp();
  });
}

function giveUp() {
  const was = stop();
  if (was) stopped(current());
  return was;
}

function restart() {
  setQuery(emptyQuery(asked().index));
  change({});
}

// The session's cookie is out of a script's reach; only that there is one is noted here, for the button.
function remember(signed) {
  by("sign-out").hidden = !signed;
  try {
    localStorage[signed ? "setItem" : "removeItem"]("puma-signed-in", "yes");
  } catch {
    // storage is blocked: the button shows until the page is left
  }
}

function remembered() {
  try {
    return localStorage.getItem("puma-signed-in") !== null;
  } catch {
    return false;
  }
}

// What an index holds; for one that is not there all kinds are asked for, and the service says that it is not.
function kinds(name) {
  if (!indexes.length) return [];
  const { modalities } = indexes.find((index) => index.name === name) ?? {};
  const all = KINDS.map(([value]) => value).filter(Boolean);
  return modalities ? all.filter((value) => modalities[value]) : all;
}

/** Learn which indexes there are, then show what the address asks for. */
async function open(anew = false) {
  say("Loading…");
  try {
    ({ indexes } = await call("indexes"));
  } catch (fault) {
    return problem(fault, () => open(anew), { query: emptyQuery(), hits: [] });
  }
  showIndexes(indexes);
  setIndexes(indexes);
  return arrive(anew ? null : history.state?.key);
}

startView({ change, reopen: () => open(true), restart });
startBox({ ask, say, down: () => focusCard(0), stop: giveUp });
startGrid({ open: detail, more, without, leave: focusBox });
startSearch({
  home,
  loading,
  hits,
  problem,
  query: (query) => {
    setQuery(query);
    describeItem(query);
  },
  firstIndex: () => indexes[0]?.name,
  kinds,
});
startTheme();
by("sign-out").hidden = !remembered();
startKeys();
hooks.waiting = (seconds) => say(seconds ? `The service is busy. Trying again in ${seconds} s…` : "Trying again…");
hooks.askToken = async () => {
  const signed = await askToken();
  if (signed) remember(true);
  return signed;
};
by("help").append(icon("help"));
by("help").addEventListener("click", showKeys);
by("more").addEventListener("click", askMore);
by("brand").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  restart();
  focusBox();
});
by("share").addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href);
  say("The link is copied.");
});
by("sign-out").addEventListener("click", async () => {
  await signOut();
  remember(false);
  location.assign("./");
});
await open();
// Where there is a keyboard, one can type at once; on a phone it would cover half of what is there.
const idle = !document.activeElement || document.activeElement === document.body;
if (idle && document.documentElement.dataset.view === "home" && matchMedia("(pointer: fine)").matches)
  by("text").focus({ preventScroll: true });
