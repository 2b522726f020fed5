// Search of a still copy, which has no server to ask: it looks through the copy's own file of words.

const TOP = new URL("../", import.meta.url);
const GROUPS = { methods: "Methods", models: "Models", cards: "Cards", studies: "Published comparisons", terms: "Words of the trade" };
const LIMITS = { methods: 30, models: 6, cards: 6, studies: 6, terms: 6 };
const DESCRIPTION = 4; // the last kind of text: every word of a description, in no order

/** Text without case, accents and punctuation. */
const folded = (text) =>
  text.toLowerCase().normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^\p{L}\p{N}]+/gu, " ").trim();

/** Edits from one word to another, two swapped letters being one. */
const edits = (from, to) => {
  let before = [];
  let last = Array.from({ length: to.length + 1 }, (_, at) => at);
  for (let row = 1; row <= from.length; row++) {
    const now = [row];
    for (let at = 1; at <= to.length; at++) {
      const same = from[row - 1] === to[at - 1];
      now[at] = Math.min(now[at - 1] + 1, last[at] + 1, last[at - 1] + (same ? 0 : 1));
      if (row > 1 && at > 1 && from[row - 1] === to[at - 2] && from[row - 2] === to[at - 1]) {
        now[at] = Math.min(now[at], before[at - 2] + 1);
      }
    }
    [before, last] = [last, now];
  }
  return last[to.length];
};

/** How like two words are, from 0 to 1: equal, the beginning of one, or a letter or two wrong. */
const alike = (wanted, word) => {
  if (wanted === word) return 1;
  if (word.startsWith(wanted)) return 0.9;
  const allowed = wanted.length < 4 ? 0 : wanted.length < 8 ? 1 : 2;
  if (!allowed || Math.abs(wanted.length - word.length) > allowed) return 0;
  const wrong = edits(wanted, word);
  return wrong > allowed ? 0 : 0.85 - 0.1 * wrong;
};

/** How well a text answers, from 0 to 1; every word that is wanted has to be in it. */
const likeness = (wanted, text, kind) => {
  const words = text.split(" ");
  if (kind === DESCRIPTION) {
    const long = wanted.split(" ").filter((word) => word.length > 3);
    return long.length && long.every((word) => words.some((each) => each.startsWith(word))) ? 0.3 : 0;
  }
  if (wanted === text) return 1;
  if (text.startsWith(wanted)) return 0.95;
  const joined = 0.9 * alike(wanted.replaceAll(" ", ""), text.replaceAll(" ", ""));
  const best = wanted.split(" ").map((each) => Math.max(...words.map((word) => alike(each, word))));
  if (best.includes(0)) return joined;
  const mean = best.reduce((sum, each) => sum + each, 0) / best.length;
  return Math.max(joined, 0.8 * mean + 0.08 * Math.min(1, wanted.length / text.length));
};

/** The things of a group that answer, best first. */
export const find = (things, words, limit) => {
  const wanted = folded(words).slice(0, 80);
  if (!wanted) return [];
  const found = [];
  for (const [name, text, place, kinds] of things) {
    // Signs count only where the name is written in full: LoRA+ is not LoRA.
    let score = name.toLowerCase() === words.trim().toLowerCase() ? 1.1 : 0;
    kinds.forEach((texts, kind) => {
      for (const each of texts) score = Math.max(score, likeness(wanted, each, kind) - 0.01 * kind);
    });
    if (score > 0.2) found.push({ name, text, place, score });
  }
  // The file has what is used more first, and sorting keeps that order among equals.
  return found.sort((a, b) => b.score - a.score).slice(0, limit);
};

/** The address inside the copy of an address of the site. */
const inside = (place) => {
  const [path, fragment] = place.split("#");
  return new URL(`${path.slice(1)}/${fragment ? `#${fragment}` : ""}`, TOP).href;
};

const list = (group, hits) => {
  const section = document.createElement("section");
  section.setAttribute("aria-labelledby", group);
  const title = document.createElement("h2");
  title.id = group;
  title.textContent = GROUPS[group];
  const items = document.createElement("ul");
  items.className = "hits";
  for (const hit of hits) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = inside(hit.place);
    link.textContent = hit.name;
    const text = document.createElement("span");
    text.className = "quiet";
    text.textContent = hit.text;
    item.append(link, " ", text);
    items.append(item);
  }
  section.append(title, items);
  return section;
};

const show = async (words) => {
  const told = document.querySelector("#told");
  try {
    const answer = await fetch(new URL("search.words.json", TOP));
    if (!answer.ok) throw new Error(`${answer.status}`);
    const things = await answer.json();
    const found = Object.keys(GROUPS).map((group) => [group, find(things[group], words, LIMITS[group])]);
    const full = found.filter(([, hits]) => hits.length);
    const count = full.reduce((sum, [, hits]) => sum + hits.length, 0);
    told.textContent = count ? `${count} found for “${words}”.` : `Nothing resembles “${words}”.`;
    document.querySelector("#found").replaceChildren(...full.map(([group, hits]) => list(group, hits)));
  } catch (error) {
    told.textContent = `The words of this copy could not be read: ${error.message}`;
  }
};

for (const form of document.querySelectorAll("form.waits")) form.classList.remove("waits");
const words = new URLSearchParams(location.search).get("q")?.slice(0, 80);
const again = document.querySelector("#again");
if (again && words) {
  again.value = words;
  show(words);
}
