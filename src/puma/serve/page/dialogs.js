// The sheets over the page: an item in full, "without a word", the token, the keys. Native dialogs: focus stays inside,
// Escape closes, and goes back to where it came from.

import { signIn } from "./api.js";
import { score } from "./cards.js";
import { by, icon, local, make, photo } from "./dom.js";
import { caption, kindName, tidyWords } from "./state.js";

const FILLERS = new Set("a an the and or of in on at to with for from by as is are no not this that its it".split(" "));
const MOST_SUGGESTED = 8;
const MOST_PLACES = 3;

/** Everything about a hit. @param {{hit, more, without, step}} given step(by): the neighbour, or nothing at the ends */
export function showDetail({ hit, more, without, step }) {
  const sheet = by("detail");
  const name = caption(hit);
  const close = (then) => () => {
    sheet.close();
    then?.(hit);
  };
  sheet.replaceChildren(
    bar(
      "detail-title",
      hit.text ? kindTitle(hit.modality) : name,
      sheet,
      stepButton("previous", "Previous result", () => step(-1)),
      stepButton("next", "Next result", () => step(1)),
    ),
    make(
      "div",
      { class: "detail" },
      hit.modality !== "text" &&
        hit.thumbnail &&
        photo(local(hit.thumbnail), { class: "large", alt: hit.text ? "" : name }),
      make(
        "div",
        { class: "about" },
        hit.text && make("p", { class: "full" }, hit.text),
        make("dl", {}, ...rows(hit)),
        make(
          "div",
          { class: "choices" },
          make("button", { type: "button", class: "go", onclick: close(more) }, "More like this"),
          make("button", { type: "button", class: "soft", onclick: close(without) }, "Without a word…"),
          ...originalLinks(hit),
        ),
      ),
    ),
  );
  sheet.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      event.preventDefault();
      step(by);
    }
  };
  if (!sheet.open) sheet.showModal();
}

/** Ask for the words to stay away from; done(words). */
export function showWithout(hit, done) {
  const sheet = by("without");
  const name = caption(hit);
  const input = make("input", {
    type: "text",
    id: "without-word",
    maxlength: "80",
    spellcheck: "false",
    autocomplete: "off",
  });
  const finish = (words) => {
    if (!words.length) return input.focus();
    sheet.close();
    return done(words);
  };
  const suggested = hit.text ? suggestions(hit.text) : [];
  sheet.replaceChildren(
    bar("without-title", "More like this, without…", sheet),
    make(
      "form",
      {
        method: "dialog",
        onsubmit: (event) => {
          event.preventDefault();
          finish(tidyWords(input.value.split(",")));
        },
      },
      make("p", { class: "of" }, hit.thumbnail && photo(local(hit.thumbnail)), make("span", { class: "name" }, name)),
      make("label", { for: "without-word" }, "A word to stay away from"),
      make("div", { class: "pair" }, input, make("button", { type: "submit", class: "go" }, "Search")),
      suggested.length > 0 &&
        make(
          "div",
          { class: "suggested", role: "group", "aria-label": "Words of its text" },
          ...suggested.map((one) =>
            make("button", { type: "button", class: "soft", onclick: () => finish([one]) }, one),
          ),
        ),
    ),
  );
  sheet.showModal();
  input.focus();
}

/** Ask for the service's token until it is right (true) or the user gives up (false). */
export function askToken() {
  const sheet = by("token");
  return new Promise((done) => {
    let signed = false;
    const input = make("input", {
      type: "password",
      id: "token-text",
      autocomplete: "current-password",
      required: true,
      "aria-describedby": "token-fault",
    });
    const fault = make("p", { class: "fault", id: "token-fault", role: "alert" });
    const button = make("button", { type: "submit", class: "go" }, "Open");
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      fault.textContent = "";
      try {
        await signIn(input.value);
        signed = true;
        sheet.close();
      } catch (error) {
        fault.textContent = error.message;
        input.select();
      } finally {
        button.disabled = false;
      }
    };
    sheet.replaceChildren(
      bar("token-title", "This search is private", sheet),
      make(
        "form",
        { onsubmit: submit },
        make("p", {}, "Whoever runs it gave it a token. It is kept in a cookie of this browser until you sign out."),
        make("label", { for: "token-text" }, "Token"),
        make("div", { class: "pair" }, input, button),
        fault,
      ),
    );
    sheet.addEventListener("close", () => done(signed), { once: true });
    sheet.showModal();
    input.focus();
  });
}

const KEYS = [
  [["/"], "go to the search box"],
  [["Enter"], "search; on a result: open it"],
  [["↓"], "from the box to the results"],
  [["←", "→", "↑", "↓"], "through the results, or from one open result to the next"],
  [["M"], "more like the result"],
  [["-"], "more like it, without a word"],
  [["Esc"], "stop, clear, close, or back to the box"],
];

export function showKeys() {
  const sheet = by("keys");
  sheet.replaceChildren(
    bar("keys-title", "Ways to search", sheet),
    make(
      "ul",
      { class: "ways" },
      make("li", {}, "Type what you are looking for, in your own words."),
      make("li", {}, "Paste, drop or pick a picture; add words to change it: “like this, but at night”."),
      make("li", {}, "Take a result and look for more like it, or more like it without a word."),
    ),
    make("h3", {}, "Keys"),
    make(
      "dl",
      { class: "keys" },
      ...KEYS.flatMap(([keys, what]) => [
        make("dt", {}, ...keys.map((key) => make("kbd", {}, key))),
        make("dd", {}, what),
      ]),
    ),
    make(
      "p",
      { class: "small" },
      "A score is the cosine similarity of query and result: 1 is the same, 0 is unrelated. " +
        "Scores of different models, or of pictures and texts, do not compare: where all kinds are searched, " +
        "results stand in the order of how far each stands out among its kind.",
    ),
  );
  sheet.showModal();
}

function bar(id, title, sheet, ...buttons) {
  return make(
    "div",
    { class: "head" },
    make("h2", { id }, title),
    ...buttons,
    make(
      "button",
      { type: "button", class: "icon", "aria-label": "Close", onclick: () => sheet.close() },
      icon("close"),
    ),
  );
}

function stepButton(drawing, label, act) {
  return make(
    "button",
    { type: "button", class: "icon", "aria-label": label, title: label, onclick: act },
    icon(drawing),
  );
}

/** Where the file itself is: only a service for this machine alone says so. */
function originalLinks(hit) {
  if (!hit.original) return [];
  const shown = new URL(local(hit.original));
  const saved = new URL(shown);
  saved.searchParams.set("download", "true");
  saved.hash = "";
  return [
    make("a", { class: "soft", href: shown.href, target: "_blank", rel: "noopener noreferrer" }, "Open original"),
    make("a", { class: "soft", href: saved.href, download: hit.file ?? "" }, "Download"),
  ];
}

function copyButton(text, label) {
  if (!navigator.clipboard) return null;
  const button = make("button", { type: "button", class: "quiet", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  return button;
}

const kindTitle = (modality) => kindName(modality).replace(/^./, (letter) => letter.toUpperCase());

function rows(hit) {
  const facts = [];
  if (hit.score != null) facts.push(["Score", make("span", { class: "facts" }, ...score(hit.score))]);
  facts.push(["Kind", kindName(hit.modality)]);
  if (hit.file) facts.push(["File", hit.file]);
  const { width, height, date, folder, ...others } = hit.metadata ?? {};
  if (hit.path) {
    const path = make("span", { class: "path" }, make("code", {}, hit.path), copyButton(hit.path, "Copy the path"));
    facts.push(["Path", path]);
  }
  if (folder) facts.push(["Folder", folder]);
  if (Number.isFinite(width) && Number.isFinite(height)) facts.push(["Size", `${width} × ${height} pixels`]);
  else Object.assign(others, width == null ? {} : { width }, height == null ? {} : { height });
  if (date) facts.push(["Date", plain(date).replace("T", " ")]);
  for (const [key, value] of Object.entries(others)) facts.push([key, plain(value)]);
  if (hit.duplicates?.length) {
    const named = hit.duplicates.map((one) => make("li", {}, one.path ?? one.file ?? one.id));
    facts.push(["Nearly the same", make("ul", { class: "alike" }, ...named)]);
  }
  if (hit.other_places?.length) facts.push(["Also at", places(hit.other_places)]);
  facts.push(["Id", make("code", {}, hit.id)]);
  return facts.flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]);
}

/** The other files of the same content; but for the first few they are folded away. */
function places(given) {
  const lines = given.map((one) => make("li", {}, place(one)));
  const list = (some) => make("ul", { class: "alike" }, ...some);
  if (lines.length <= MOST_PLACES) return list(lines);
  const rest = make("summary", {}, `${lines.length - MOST_PLACES} more`);
  return make("div", {}, list(lines.slice(0, MOST_PLACES)), make("details", {}, rest, list(lines.slice(MOST_PLACES))));
}

function place({ file, path, metadata }) {
  const { width, height, date, folder, ...others } = metadata ?? {};
  const said = Object.entries(others).map(([key, value]) => `${key}: ${plain(value)}`);
  return [path ?? file, said.join(", ")].filter(Boolean).join(" · ") || "another file";
}

function plain(value) {
  if (Array.isArray(value) && value.every((one) => typeof one !== "object")) return value.join(", ");
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

function suggestions(text) {
  const words = text.toLowerCase().match(/[\p{L}\p{N}][\p{L}\p{N}'-]*/gu) ?? [];
  return [...new Set(words)].filter((one) => one.length > 1 && !FILLERS.has(one)).slice(0, MOST_SUGGESTED);
}
