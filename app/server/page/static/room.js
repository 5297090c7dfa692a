// A room: scrubbing through its timeline, and live while it is shown as it is now.

import { keepFresh } from "./fresh.js";
import { fetchPage, take } from "./parts.js";
import { iso, localTimes, setField, shown } from "./times.js";

const PLAY_MS = 900;
const SETTLE_MS = 100;
const SCALE = 1000;
const DRAW_MS = 5000;  // a drawing of more than LARGE parts is as long as all else together, and hardly moves in a second
const LARGE = 100;
const PARTS = ["#banners", "#name", "#timeline", "#legend", "#moment", "#visibility", "#history"];

export function room(live) {
  const [at, known] = [document.getElementById("at"), document.getElementById("known")];
  // What is shown, and where the sliders are: epoch milliseconds, null for now.
  const asked = () => ({ at: read(live.dataset.at), known: read(live.dataset.known) });
  let moment = asked();
  let [playing, steps, loading] = [false, 0, Promise.resolve(true)];
  let [drawing, drawnAt] = [null, performance.now()];
  document.getElementById("sliders").hidden = false;

  const fresh = keepFresh({
    head: Number(live.dataset.head), part: "#room",
    concerns: (change) => change.room_id === live.dataset.room,
    past: () => asked().at !== null || asked().known !== null,
    refresh: async (_, free) => {
      await loading;
      const url = new URL(location.href);
      const left = drawnAt + DRAW_MS - performance.now();
      if (left > 0 && isLarge()) {
        url.searchParams.set("brief", "true");
        clearTimeout(drawing);
        drawing = setTimeout(fresh.touch, left);
      }
      const [step, page] = [steps, await fetchPage(url)];
      free();
      if (step === steps) show(page);
    },
  });

  const isLarge = () => document.querySelectorAll("#timeline a, #timeline .period").length > LARGE;

  // ---- loading a moment: what is shown, the address and the sliders change together, or not at all ----

  function address() {
    const url = new URL(location.href);
    for (const [name, ms] of [["at", moment.at], ["known_at", moment.known]]) {
      if (ms === null) url.searchParams.delete(name); else url.searchParams.set(name, iso(ms));
    }
    url.searchParams.delete("cursor");
    return url;
  }

  async function load(step) {
    try {
      await new Promise((resolve) => { setTimeout(resolve, SETTLE_MS); });
      if (step !== steps) return true;
      const url = address();
      const page = await fetchPage(url);
      if (step !== steps) return true;
      history.replaceState(null, "", url);
      show(page);
      fresh.succeeded();
      return true;
    } catch (error) {
      if (step !== steps || error.name === "AbortError") return true;
      moment = asked();
      place();
      stop();
      fresh.failed(error);
      return false;
    }
  }

  function go(change) {
    moment = { ...moment, ...change };
    place();
    steps += 1;
    loading = load(steps);
    return loading;
  }

  function show(page) {
    localTimes(page);
    dress(page);
    const theirs = page.getElementById("room");
    for (const [name, value] of Object.entries(theirs.dataset)) live.dataset[name] = value;
    for (const name of ["at", "known"]) if (!(name in theirs.dataset)) delete live.dataset[name];
    for (const part of PARTS) take(page, part);
    document.title = page.title;
    if (page.getElementById("timeline")) drawnAt = performance.now();
    for (const slider of [at, known]) {
      const other = page.getElementById(slider.id);
      if (!other) continue;
      for (const name of ["min", "max"]) slider[name] = other[name];
      if (other.dataset.arrivals) slider.dataset.arrivals = other.dataset.arrivals;
    }
    for (const form of document.querySelectorAll("#room form[id]")) syncForm(form, page.getElementById(form.id));
    moment = asked();
    place();
    fresh.say();
  }

  // What a form sends along with what is typed: the moment that is shown.
  function syncForm(form, theirs) {
    if (!theirs) return;
    for (const field of form.querySelectorAll("input[type=hidden]")) {
      const other = theirs.querySelector(`[name="${field.name}"]`);
      if (!("moment" in field.dataset)) [field.value, field.disabled] = [other.value, other.disabled];
      else if (form.id === "travel") setField(field, other.value);
    }
    for (const link of form.querySelectorAll("a[id]")) {
      const other = theirs.querySelector(`#${link.id}`);
      [link.hidden, link.href] = [other.hidden, other.getAttribute("href")];
    }
  }

  // ---- drawing where the sliders are ----

  function place() {
    for (const [slider, ms] of [[at, moment.at], [known, moment.known]]) {
      slider.value = ms ?? slider.max;
      slider.setAttribute("aria-valuetext", ms === null ? "now" : shown(ms));
    }
    const [first, end] = [Number(at.min), Number(at.max)];
    const x = (ms) => end > first ? Math.min(Math.max((ms - first) / (end - first), 0), 1) * SCALE : SCALE;
    move("cursor", x(moment.at ?? end));
    move("known-mark", x(moment.known ?? end));
    document.getElementById("known-mark").classList.toggle("off", moment.known === null);
  }

  function move(id, x) {
    for (const side of ["x1", "x2"]) document.getElementById(id).setAttribute(side, x);
  }

  // ---- steps ----

  const marks = () => [...document.querySelectorAll("#timeline a[data-at]")].map((mark) => Number(mark.dataset.at));

  const neighbour = (id) => read(document.getElementById(id)?.dataset.at);

  // Goes to the next or the previous change; false if there is none. Marks that stand for several changes do not do.
  async function step(forward) {
    if (thinned()) {
      await loading;
      const to = neighbour(forward ? "next" : "previous");
      if (to === null) { if (forward && moment.at !== null) go({ at: null }); return false; }
      return go({ at: to });
    }
    const [times, now] = [marks(), moment.at ?? Number(at.max)];
    const current = times.filter((ms) => ms <= now).pop();
    const to = forward ? times.find((ms) => ms > now) : times.filter((ms) => ms < (moment.at === null ? current : now)).pop();
    if (to !== undefined) return go({ at: to });
    if (forward && moment.at !== null) go({ at: null });
    return false;
  }

  const thinned = () => "thinned" in document.getElementById("timeline").dataset;

  function first() {
    return go({ at: (thinned() ? null : marks()[0]) ?? Number(at.min) });
  }

  function stepKnown(forward) {
    const [arrivals, now] = [JSON.parse(known.dataset.arrivals), moment.known ?? Infinity];
    const to = forward ? arrivals.find((ms) => ms > now) : arrivals.filter((ms) => ms < now).pop();
    if (to !== undefined) go({ known: to });
    else if (forward) go({ known: null });
  }

  // ---- playing ----

  function stop() {
    playing = false;
    dress(document);
  }

  async function play() {
    if (playing) { stop(); return; }
    playing = true;
    dress(document);
    let going = moment.at !== null || await first();
    while (playing && going) {
      await new Promise((resolve) => { setTimeout(resolve, PLAY_MS); });
      going = playing && await step(true);
    }
    if (playing) stop();
  }

  function dress(page) {
    const button = page.getElementById("play");
    if (!button) return;
    button.hidden = false;
    button.textContent = playing ? "Stop" : "Play";
  }

  // ---- what the reader does ----

  const valueOf = (slider) => Number(slider.value) >= Number(slider.max) ? null : Number(slider.value);

  at.addEventListener("input", () => { stop(); go({ at: valueOf(at) }); });
  known.addEventListener("input", () => { go({ known: valueOf(known) }); });
  addEventListener("focusin", (event) => {  // a period's title tells its times to a pointer, this to a keyboard
    document.getElementById("period").textContent = event.target.matches(".period") ? event.target.getAttribute("aria-label") : "";
  });
  live.addEventListener("click", (event) => {
    const link = event.target.closest("#play, #previous, #next");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (link.id === "play") play(); else { stop(); go({ at: read(link.dataset.at) }); }
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=range]), select, textarea, button, summary, pre");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.matches("a")) return;
    const [onSlider, onKnown] = [event.target.matches("[type=range]"), event.target === known];
    const back = onKnown ? () => stepKnown(false) : () => step(false);
    const on = onKnown ? () => stepKnown(true) : () => step(true);
    const work = {
      ArrowLeft: back, ArrowRight: on, " ": play,
      ArrowDown: onSlider && back, ArrowUp: onSlider && on,
      Home: () => { if (onKnown) go({ known: JSON.parse(known.dataset.arrivals)[0] ?? null }); else first(); },
      End: () => go(onKnown ? { known: null } : { at: null }),
    }[event.key];
    if (!work) return;
    event.preventDefault();
    if (event.key !== " ") stop();
    work();
  });
  dress(document);
  place();
}

const read = (text) => text === undefined ? null : Number(text);
