// Fetches pages, and makes parts of this one like theirs without touching what did not change.

const ANSWER_MS = 10000;

export class SignedOut extends Error {}

let fetching = null;

// A page as a document; a later call ends an earlier one with an AbortError.
export async function fetchPage(url) {
  fetching?.abort();
  const mine = fetching = new AbortController();
  const ended = AbortSignal.any([mine.signal, AbortSignal.timeout(ANSWER_MS)]);
  const answer = await fetch(url, { signal: ended, headers: { accept: "text/html" } });
  if (answer.redirected) throw new SignedOut();
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  mine.signal.throwIfAborted();
  return page;
}

// Makes the part that a selector names like the one of another page, if both have it.
export function take(page, selector) {
  const [mine, theirs] = [document.querySelector(selector), page.querySelector(selector)];
  if (mine && theirs) become(mine, theirs);
}

// Forms are left alone: what is typed into them is the reader's. So is which details are open.
export function become(mine, theirs) {
  if (mine.isEqualNode(theirs) || mine.matches("form")) return;
  for (const { name } of [...mine.attributes]) {
    if (!theirs.hasAttribute(name) && !kept(mine, name)) mine.removeAttribute(name);
  }
  for (const { name, value } of theirs.attributes) {
    if (mine.getAttribute(name) !== value && !kept(mine, name)) mine.setAttribute(name, value);
  }
  const keyed = new Map();
  for (const child of mine.children) if (keyOf(child)) keyed.set(keyOf(child), child);
  let here = mine.firstChild;
  for (const theirChild of [...theirs.childNodes]) {
    const key = keyOf(theirChild);
    const found = key ? keyed.get(key) : here && !keyOf(here) && here.nodeName === theirChild.nodeName ? here : null;
    if (!found) { mine.insertBefore(document.adoptNode(theirChild), here); continue; }
    if (key) keyed.delete(key);
    if (found === here) here = here.nextSibling; else mine.insertBefore(found, here);
    if (found.nodeType === Node.ELEMENT_NODE) become(found, theirChild);
    else if (found.nodeValue !== theirChild.nodeValue) found.nodeValue = theirChild.nodeValue;
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

const kept = (element, name) => name === "open" && element.localName === "details";

const keyOf = (node) => node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || node.dataset.room : undefined;
