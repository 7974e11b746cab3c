// What is asked: a query as a plain object, its address (shareable, but for pictures), and the words for its parts.

/** What to get, as the service spells it, and as people do. */
export const KINDS = [
  ["", "Everything"],
  ["image", "Pictures"],
  ["text", "Texts"],
  ["image,text", "Captioned pictures"],
];

const SINGLE = { image: "picture", text: "text", "image,text": "captioned picture" };
export const kindName = (modality) => SINGLE[modality] ?? modality;

/** @typedef {{text: string, index: string|null, modality: string, minus: string[], item: string|null, alike: boolean,
 *             picture: {blob: Blob, name: string, preview: string}|null}} Query */

/** @returns {Query} */
export const emptyQuery = (index = null) => ({
  text: "",
  index,
  modality: "",
  minus: [],
  item: null,
  alike: false,
  picture: null,
});

/** Is there something to search with? Words to stay away from alone are not. */
export const askable = (query) => Boolean(query.text.trim() || query.item || query.picture);

/** @returns {Query} */
export function fromAddress(search) {
  const given = new URLSearchParams(search);
  const modality = given.get("modality") ?? "";
  return {
    text: given.get("text") ?? "",
    index: given.get("index") || null,
    modality: KINDS.some(([value]) => value === modality) ? modality : "",
    minus: tidyWords(given.getAll("minus")),
    item: given.get("item") || null,
    alike: given.has("alike"),
    picture: null,
  };
}

/**
 * The page's address for a query. A picture cannot be in it. The index is always named in a search, since which one is
 * the first may change; before that only if it is not the first.
 */
export function toAddress(query, firstIndex = null) {
  const given = new URLSearchParams();
  if (query.text.trim()) given.set("text", query.text.trim());
  if (query.item) given.set("item", query.item);
  if (query.index && (askable(query) || query.index !== firstIndex)) given.set("index", query.index);
  if (query.modality) given.set("modality", query.modality);
  for (const word of query.minus) given.append("minus", word);
  if (query.alike && askable(query)) given.set("alike", "1");
  const text = given.toString();
  return text ? `?${text}` : location.pathname;
}

/** Words without blanks around them, each once. */
export function tidyWords(words) {
  return [...new Set(words.map((word) => word.trim().replace(/\s+/g, " ")).filter(Boolean))];
}

export const count = (number) => number.toLocaleString("en");

const DIGEST = /^[0-9a-f]{32,}$/;

/** A hit's name in one line: its text, else a title of its metadata, its file, or its id if that says anything. */
export function caption(hit) {
  const { title, caption, name } = hit.metadata ?? {};
  const own = [hit.text, title, caption, name].find((value) => typeof value === "string" && value.trim());
  return own?.trim() ?? hit.file ?? (DIGEST.test(hit.id) ? `untitled ${kindName(hit.modality)}` : hit.id);
}
