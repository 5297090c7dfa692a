// The list of rooms: only the rows of rooms that changed are fetched.

import { keepFresh } from "./fresh.js";
import { become, fetchPage, take } from "./parts.js";
import { localTimes } from "./times.js";

const MARKED_MS = 1500;
const MAX_ROWS = 20;
const SCALE = 1000;

export function rooms(live) {
  let untidy = false;  // whether rows wait to change places until nobody points at the list
  const list = () => document.getElementById("list");
  const body = () => list().querySelector("tbody");
  const held = () => list().matches(":hover") || list().contains(document.activeElement);

  const fresh = keepFresh({
    head: Number(live.dataset.head), part: "#list", past: () => "past" in live.dataset,
    refresh: async (changed, free) => {
      if (changed === null || changed.size > MAX_ROWS || !body()) await refreshAll(free);
      else await refreshRows([...changed], free);
      scaleBars();
      for (const row of changed ? body()?.rows ?? [] : []) if (changed.has(row.dataset.room)) mark(row);
    },
  });

  async function load(only, free) {
    const url = new URL(location.href);
    if (only) url.searchParams.set("only", JSON.stringify(only));
    const page = await fetchPage(url);
    free();
    localTimes(page);
    take(page, "#banners");
    return page;
  }

  async function refreshAll(free) {
    const page = await load(null, free);
    untidy = held();
    if (!untidy || !body()) { take(page, "#list"); return; }
    for (const row of body().rows) {
      const theirs = page.querySelector(`tr[data-room="${CSS.escape(row.dataset.room)}"]`);
      if (theirs) become(row, theirs);
    }
  }

  async function refreshRows(changed, free) {
    const page = await load(changed, free);
    const still = held();
    for (const room of changed) {
      const [mine, theirs] = [body(), page].map((it) => it.querySelector(`tr[data-room="${CSS.escape(room)}"]`));
      if (mine && theirs) become(mine, theirs);
      if (still) untidy = true;
      else if (mine && !theirs) mine.remove();
      else if (first() && theirs && (mine || isListed(theirs))) put(mine ?? document.adoptNode(theirs));
    }
    if (!still && !trim()) await refreshAll(free);
  }

  // The pages behind the first begin at a cursor: rows neither enter nor change places there.
  const first = () => "first" in list().dataset;

  const isListed = (row) => !hasNext() || precedes(row, body().rows[body().rows.length - 1]);

  const hasNext = () => list().querySelector("a[rel=next]") !== null;

  const byName = () => "byName" in list().dataset;

  function precedes(one, other) {
    const [a, b] = [one, other].map((row) => [Number(row.dataset.time), row.dataset.room]);
    if (byName()) return a[1] < b[1];
    return a[0] > b[0] || (a[0] === b[0] && a[1] > b[1]);
  }

  // The row before which another belongs; null for the end.
  const place = (row) => [...body().rows].find((other) => other !== row && precedes(row, other)) ?? null;

  function put(row) {
    const before = place(row);
    if (row.parentNode !== body() || row.nextElementSibling !== before) body().insertBefore(row, before);
  }

  // Cuts the list to the length of a page, and lets the next page begin behind it; false if there is no link to it.
  function trim() {
    const [rows, most] = [body().rows, Number(list().dataset.most)];
    if (rows.length <= most) return rows.length > 0;
    const next = list().querySelector("a[rel=next]");
    if (!next) return false;
    while (rows.length > most) rows[most].remove();
    const url = new URL(next.href);
    url.searchParams.set("cursor", rows[most - 1].dataset.cursor);
    next.href = url;
    return true;
  }

  // Bars are drawn against the room with the most changes that is listed.
  function scaleBars() {
    const rows = [...body()?.rows ?? []];
    const most = Math.max(...rows.map((row) => Number(row.dataset.changes)));
    for (const row of rows) {
      const width = most > 0 ? Math.round(SCALE * 10 * Number(row.dataset.changes) / most) / 10 : 0;
      row.querySelector(".bar rect").setAttribute("width", width);
    }
  }

  function mark(row) {
    row.classList.add("moved");
    setTimeout(() => row.classList.remove("moved"), MARKED_MS);
  }

  function tidy() {
    if (untidy && !held()) { untidy = false; fresh.touch(); }
  }

  live.addEventListener("mouseleave", tidy);
  live.addEventListener("focusout", () => setTimeout(tidy));
  if (!("past" in live.dataset)) setInterval(fresh.touch, Math.max(30000, Number(live.dataset.window) / 360));  // strips move
}
