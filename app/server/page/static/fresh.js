// Keeps a page fresh: at most one refresh a second, none while something of it is being used, and says how it stands.

import { follow } from "./live.js";
import { SignedOut } from "./parts.js";
import { timeOfDay } from "./times.js";

const SETTLE_MS = 100;
const APART_MS = 1000;
const AGAIN_MS = 3000;
const TYPING_MS = 2000;
const FIELDS = "input:not([type=range], [type=hidden]), textarea, select";

const said = document.getElementById("live");
const pause = document.getElementById("pause");

// `refresh` gets the rooms that changed, or null for all, and calls `free` before it replaces anything, which throws if
// something came into use while it was asking. `concerns`: which changes count; `past`: whether a past time
// is shown, which does not change; `inUse`: more of the page that is not to be replaced now, in words.
export function keepFresh({ head, part, refresh, concerns = () => true, past = () => false, inUse = () => null }) {
  let [rooms, all, count] = [new Set(), false, 0];  // what waits to be shown
  let [running, last, timer, failure] = [false, 0, null, null];
  let [connection, paused, pressed, typedAt] = [{ kind: "connecting" }, false, null, 0];

  const waiting = () => all || rooms.size > 0;

  function used() {
    const [active, selection] = [document.activeElement, getSelection()];
    const area = document.querySelector(part);
    const typed = active?.matches(FIELDS) && (active.value !== initial(active) || performance.now() - typedAt < TYPING_MS);
    if (typed) return "paused while you type";
    if (pressed && area.contains(pressed)) return "paused while you press";
    if (!selection.isCollapsed && selection.rangeCount && selection.getRangeAt(0).intersectsNode(area)) {
      return "paused while text is selected";
    }
    return inUse();
  }

  function say() {
    const lost = connection.kind === "lost" ? connection : failure;
    let text = connection.kind === "connecting" ? "connecting…" : "live";
    if (connection.kind === "signed out") text = "signed out: reload the page to sign in again";
    else if (lost?.status) text = `not up to date since ${timeOfDay(lost.since)}: ${lost.status}; trying again`;
    else if (lost) text = `disconnected since ${timeOfDay(lost.since)}; trying again`;
    else if (past()) text = rooms.size ? "a past time; new changes: go back to now to see them" : "a past time: no updates";
    else if (paused) text = count ? `paused; ${count} new ${count === 1 ? "change" : "changes"}` : "paused";
    else if (used()) text = used();
    else if (connection.kind === "behind") text = "not up to date: the projections are waiting";
    if (said.textContent !== text) said.textContent = text;
    document.body.classList.toggle("disconnected", Boolean(lost) && !lost.status);
  }

  const held = () => paused || document.hidden || (past() && !failure) || used();

  // Refreshes if there is anything to show and nothing against it. Called whenever one of these may have changed.
  function settle() {
    say();
    const cut = connection.kind === "lost" || connection.kind === "signed out";
    if (running || timer || cut || !waiting() || held()) return;
    timer = setTimeout(run, Math.max(SETTLE_MS, last + (failure ? AGAIN_MS : APART_MS) - performance.now()));
  }

  function free() {
    if (held()) throw new DOMException("in use", "AbortError");
  }

  async function run() {
    timer = null;
    if (held()) { say(); return; }
    const [shownRooms, shownAll, shownCount] = [rooms, all, count];
    [rooms, all, count, running, last] = [new Set(), false, 0, true, performance.now()];
    try {
      await refresh(shownAll ? null : shownRooms, free);
      failure = null;
    } catch (error) {
      [rooms, all, count] = [new Set([...shownRooms, ...rooms]), shownAll || all, shownCount + count];
      failed(error);
    }
    running = false;
    settle();
  }

  function failed(error) {
    if (error.name === "AbortError") return;
    if (error instanceof SignedOut) connection = { kind: "signed out" };
    else {
      const status = error.message.startsWith("the server answered") ? error.message : null;
      failure = { since: failure?.since ?? Date.now(), status };
      all = true;
    }
    say();
    setTimeout(settle, AGAIN_MS);
  }

  function touch() { all = true; settle(); }

  function succeeded() { failure = null; settle(); }

  for (const event of ["pointerup", "pointercancel", "blur"]) addEventListener(event, () => { pressed = null; settle(); });
  addEventListener("pointerdown", (event) => { pressed = event.target; });
  addEventListener("input", (event) => {
    if (!event.target.matches(FIELDS)) return;
    typedAt = performance.now();
    setTimeout(settle, TYPING_MS + 50);
    say();
  });
  addEventListener("focusout", () => setTimeout(settle));
  document.addEventListener("selectionchange", () => setTimeout(settle));
  document.addEventListener("visibilitychange", settle);

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    settle();
  });

  follow(head, {
    changed: (change) => { if (concerns(change)) { rooms.add(change.room_id); count += 1; settle(); } },
    missed: touch,
    told: (state) => {
      const back = state.kind === "live" && ["lost", "signed out"].includes(connection.kind);
      connection = state;
      if (back) { failure = null; all = true; }
      settle();
    },
  });
  say();
  return { touch, settle, failed, succeeded, say };
}

function initial(field) {
  if (field.matches("select")) return [...field.options].find((option) => option.defaultSelected)?.value ?? field.options[0]?.value;
  return field.defaultValue;
}
