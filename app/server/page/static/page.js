// What scripts add to the page: the reader's time zone, scrubbing, and live updates. Everything works without them.

const PLAY_MS = 900;
const SETTLE_MS = 120;

// ---- times in the reader's time zone, UTC on hover ----

const shortTime = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  hour12: false,
});

function localTimes(root) {
  for (const time of root.querySelectorAll("time[data-ms]")) {
    const at = new Date(Number(time.dataset.ms));
    if (!Number.isNaN(at.getTime())) time.textContent = shortTime.format(at);
  }
}

// Shows a time box as the browser's own one, in the reader's time zone; the form sends UTC.
function localInputs(root) {
  for (const box of root.querySelectorAll("input[data-moment]:not([data-shown])")) {
    const local = document.createElement("input");
    local.type = "datetime-local";
    local.step = "0.001";
    local.setAttribute("aria-label", box.closest("label").firstChild.textContent.trim());
    box.dataset.shown = "";
    local.required = box.required;
    box.required = false;
    const at = new Date(box.value);
    if (box.value && !Number.isNaN(at.getTime())) local.value = localValue(at);
    box.hidden = true;
    box.type = "hidden";
    local.addEventListener("input", () => { box.value = local.value ? new Date(local.value).toISOString() : ""; });
    box.after(local);
  }
}

function localValue(at) {
  const shifted = new Date(at.getTime() - at.getTimezoneOffset() * 60000);
  return shifted.toISOString().slice(0, 23);
}

function iso(ms) {
  return new Date(ms).toISOString();
}

// ---- fetching a page and replacing parts of this one ----

let fetching = null;

async function fetchPage(url) {
  if (fetching) fetching.abort();
  const mine = fetching = new AbortController();
  const answer = await fetch(url, { signal: mine.signal, headers: { accept: "text/html" } });
  if (answer.redirected) { location.reload(); throw new DOMException("", "AbortError"); }  // the session is over
  if (!answer.ok) throw new Error(`${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (mine.signal.aborted) throw new DOMException("", "AbortError");
  localTimes(page);
  return page;
}

function take(page, selector) {
  const [mine, theirs] = [document.querySelector(selector), page.querySelector(selector)];
  if (!mine || !theirs) return;
  const held = mine.contains(document.activeElement) ? document.activeElement : null;
  const opened = [...mine.querySelectorAll("details")].map((details) => details.open);
  mine.replaceWith(theirs);
  theirs.querySelectorAll("details").forEach((details, i) => { if (i < opened.length) details.open = opened[i]; });
  if (held) {
    const again = held.id ? document.getElementById(held.id)
      : held.getAttribute("href") && [...theirs.querySelectorAll("a")]
        .find((link) => link.getAttribute("href") === held.getAttribute("href"));
    if (again) again.focus({ preventScroll: true });
  }
}

// ---- live updates; the browser reconnects by itself after a break ----

const said = document.getElementById("live");
const live = document.querySelector("[data-live]");

function listen(onChange) {
  const source = new EventSource(new URL(`../events/stream?after=${live.dataset.head}`, import.meta.url));
  source.addEventListener("open", () => { said.textContent = "live"; });
  source.addEventListener("error", () => {
    said.textContent = source.readyState === EventSource.CLOSED ? "disconnected: reload the page" : "reconnecting…";
  });
  source.addEventListener("room-updated", (event) => onChange(JSON.parse(event.data)));
  addEventListener("pagehide", () => source.close());
}

// A function that runs `work` soon, once for all calls until it has ended.
function gathered(work) {
  let [waiting, again] = [false, false];
  const start = () => {
    if (waiting) { again = true; return; }
    waiting = true;
    setTimeout(async () => {
      again = false;
      try { await work(); } catch (error) { if (error.name !== "AbortError") said.textContent = "could not refresh"; }
      waiting = false;
      if (again) start();
    }, SETTLE_MS);
  };
  return start;
}

function rooms() {
  if ("past" in live.dataset) { said.textContent = "a past time: no updates"; return; }
  const moved = new Set();
  const refresh = gathered(async () => {
    const list = document.getElementById("list");
    // While the pointer or the focus is in the list, rows keep their places and only their cells change.
    const held = list.matches(":hover") || list.contains(document.activeElement);
    const page = await fetchPage(location.href);
    if (!held) take(page, "#list");
    else for (const row of list.querySelectorAll("tr[data-room]")) {
      const fresh = page.querySelector(`tr[data-room="${CSS.escape(row.dataset.room)}"]`);
      if (fresh && fresh.innerHTML !== row.innerHTML && !row.contains(document.activeElement)) row.innerHTML = fresh.innerHTML;
    }
    for (const room of moved) {
      const row = document.querySelector(`tr[data-room="${CSS.escape(room)}"]`);
      if (row) { row.classList.add("moved"); setTimeout(() => row.classList.remove("moved"), 1500); }
    }
    moved.clear();
  });
  listen((change) => { moved.add(change.room_id); refresh(); });
}

function health() {
  setInterval(gathered(async () => {
    if (document.querySelector("#health details[open]")) return;  // a body is being read
    take(await fetchPage(location.href), "#health");
  }), 5000);
}

// ---- a room: scrubbing through its timeline ----

function room() {
  const travel = document.getElementById("sliders");
  const [at, known] = [document.getElementById("at"), document.getElementById("known")];
  let playing = null;
  travel.hidden = false;

  const isNow = (slider) => Number(slider.value) >= Number(slider.max);

  function address() {
    const url = new URL(location.href);
    for (const [name, slider] of [["at", at], ["known_at", known]]) {
      if (isNow(slider)) url.searchParams.delete(name); else url.searchParams.set(name, iso(Number(slider.value)));
    }
    url.searchParams.delete("cursor");
    return url;
  }

  function drawCursor() {
    const [first, end] = [Number(at.min), Number(at.max)];
    const x = end > first ? (Number(at.value) - first) / (end - first) * 1000 : 1000;
    for (const end of ["x1", "x2"]) document.getElementById("cursor").setAttribute(end, x);
  }

  function describe() {
    for (const slider of [at, known]) {
      slider.setAttribute("aria-valuetext", isNow(slider) ? "now" : shortTime.format(new Date(Number(slider.value))));
    }
  }

  const show = gathered(async () => {
    const url = address();
    const page = await fetchPage(url);
    const timeline = url.searchParams.get("known_at") !== new URL(location.href).searchParams.get("known_at");
    history.replaceState(null, "", url);
    for (const part of ["#moment", "#visibility", "#history", "#travel", ...(timeline ? ["#timeline"] : [])]) take(page, part);
    document.title = page.title;
    dress();
    drawCursor();
  });

  function go(ms) {
    at.value = ms;
    drawCursor();
    describe();
    show();
  }

  // Steps go along the marks of the timeline; before the oldest mark they follow the page's own link.
  function marks() {
    return [...document.querySelectorAll("#timeline a")].map((link) => Date.parse(new URL(link.href.baseVal, location.href).searchParams.get("at")));
  }

  function step(forward) {
    const [times, now] = [marks(), Number(at.value)];
    const current = times.filter((ms) => ms <= now).pop();
    const to = forward ? times.find((ms) => ms > now) : times.filter((ms) => ms < (isNow(at) ? current : current ?? now)).pop();
    if (to !== undefined) go(to);
    else if (forward) { go(Number(at.max)); return false; }
    else document.getElementById("previous")?.click();
    return to !== undefined;
  }

  function stop() {
    clearInterval(playing);
    playing = null;
    const button = document.getElementById("play");
    if (button) button.textContent = "Play";
  }

  function play() {
    if (playing) { stop(); return; }
    if (isNow(at)) go(marks()[0] ?? Number(at.min));
    playing = setInterval(() => { if (!step(true)) stop(); }, PLAY_MS);
    document.getElementById("play").textContent = "Stop";
  }

  function dress() {
    localInputs(document);
    const button = document.getElementById("play");
    button.hidden = false;
    button.textContent = playing ? "Stop" : "Play";
    button.addEventListener("click", play);
    for (const [id, forward] of [["previous", false], ["next", true]]) {
      document.getElementById(id)?.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        go(Date.parse(new URL(event.currentTarget.href).searchParams.get("at")));
      });
    }
    describe();
  }

  // The title tells a period's times to a pointer, this to a keyboard.
  addEventListener("focusin", (event) => {
    document.getElementById("period").textContent = event.target.matches(".period") ? event.target.getAttribute("aria-label") : "";
  });
  at.addEventListener("input", () => { stop(); drawCursor(); describe(); show(); });
  known.addEventListener("input", () => { describe(); show(); });
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=range]), select, textarea, button, summary, pre");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.target === known) return;
    if (event.key === " " && event.target.matches("a")) return;
    const work = {
      ArrowLeft: () => step(false), ArrowRight: () => step(true), " ": play,
      Home: () => go(marks()[0] ?? Number(at.min)), End: () => go(Number(at.max)),
    }[event.key];
    if (!work) return;
    event.preventDefault();
    if (event.key !== " ") stop();
    work();
  });
  dress();

  const refresh = gathered(async () => {
    if (!isNow(at) || !isNow(known)) { said.textContent = "new changes: go back to now to see them"; return; }
    const page = await fetchPage(address());
    const fresh = page.getElementById("room").dataset;
    for (const [slider, end] of [[at, fresh.end], [known, fresh.knownEnd]]) { slider.max = end; slider.value = end; }
    for (const part of ["#moment", "#visibility", "#history", "#timeline"]) take(page, part);
    dress();
  });
  listen((change) => { if (change.room_id === live.dataset.room) refresh(); });
}

localTimes(document);
localInputs(document);
const zone = document.getElementById("zone");
if (zone) zone.textContent = `in your time zone, ${Intl.DateTimeFormat().resolvedOptions().timeZone}; hover over a time to see it in UTC`;
if (live) ({ rooms, room, health })[live.dataset.live]();
