// One event stream per browser: the tab that holds a lock has it open and passes on what comes to the others.
// Hidden tabs leave that to those which are seen. Where there are no locks (http to another machine), each tab that is
// seen has a stream of its own.

export const ROOT = new URL("..", import.meta.url);  // the page may be served under a path

const NAME = `roomlapse ${ROOT.pathname}`;
const ANSWER_MS = 5000;
const SILENT_MS = 15000;
const RETRY_MS = [500, 1000, 2000, 5000];

// `told` is called with every change of the connection: "live", "behind" (the projections wait), "lost" since a time,
// "signed out". `missed` is called when changes may have passed unseen.
export function follow(head, { changed, missed, told }) {
  let position = head;  // up to which this tab has seen all changes; null if that cannot be told
  let met = false;  // whether the tab that has the stream has answered
  let state = { kind: "connecting" };
  let [source, timer, tries, leaving] = [null, null, 0, null];
  const channel = new BroadcastChannel(NAME);

  const leads = () => source !== null || timer !== null;

  function tell(next) {
    if (next.kind === state.kind) return;
    state = next;
    channel.postMessage({ state, position });
    told(state);
  }

  function receive(change) {
    if (position !== null && change.position <= position) return;
    position = change.position;
    changed(change);
  }

  channel.addEventListener("message", ({ data }) => {
    if (data.hello && leads()) channel.postMessage({ state, position });
    if (leads()) return;
    if (data.change) receive(data.change);
    if (data.missed) { position = null; missed(); }
    if (data.state) {
      // Changes may have been passed on between the making of this page and its listening.
      if (!met && data.position !== head) { position = data.position; missed(); }
      met = true;
      state = data.state;
      told(state);
    }
  });

  // ---- the stream, in the tab that has it ----

  function open() {
    source = new EventSource(new URL(`events/stream${position === null ? "" : `?after=${position}`}`, ROOT));
    wait(ANSWER_MS, fail);
    source.addEventListener("open", () => {
      tries = 0;
      wait(SILENT_MS, look);
      if (state.kind !== "behind") tell({ kind: "live" });
      if (position === null) { channel.postMessage({ missed: true }); missed(); }
    });
    source.addEventListener("room-updated", (event) => {
      const change = JSON.parse(event.data);
      channel.postMessage({ change });
      receive(change);
      tell({ kind: "live" });
      wait(SILENT_MS, look);
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) position = null;  // refused: perhaps the log is another one
      fail();
    });
  }

  function close() {
    source?.close();
    clearTimeout(timer);
    [source, timer] = [null, null];
  }

  function wait(ms, then) {
    clearTimeout(timer);
    timer = setTimeout(then, ms);
  }

  function fail() {
    const refused = source.readyState === EventSource.CLOSED;
    close();
    wait(RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)], open);
    if (state.kind !== "signed out") tell({ kind: "lost", since: Date.now() });
    if (refused) signedOut().then((it) => { if (it) tell({ kind: "signed out" }); });
  }

  // After a silence: a connection may be dead without a word, and projections that wait send nothing.
  async function look() {
    const mine = source;
    let answer = null;
    try { answer = await fetch(new URL("readyz", ROOT), { signal: AbortSignal.timeout(ANSWER_MS) }); } catch { /* gone */ }
    if (source !== mine || source === null) return;
    if (answer === null) { fail(); return; }
    tell({ kind: answer.ok ? "live" : "behind" });
    close();
    open();
  }

  // ---- who has it ----

  function lead() {
    if (document.hidden || leaving) return;
    if (!navigator.locks) { leaving = close; open(); return; }
    const asking = new AbortController();
    let left = null;
    leaving = () => { asking.abort(); close(); left?.(); };
    navigator.locks.request(NAME, { signal: asking.signal }, () => new Promise((resolve) => {
      left = resolve;
      if (!met && !asking.signal.aborted) position = position === null ? null : Math.min(position, head);
      open();
    })).catch((error) => { if (error.name !== "AbortError") throw error; });
  }

  function leave() {
    leaving?.();
    leaving = null;
  }

  function come() {
    [met, head] = [false, position];
    channel.postMessage({ hello: true });
    lead();
  }

  document.addEventListener("visibilitychange", () => { if (document.hidden) leave(); else come(); });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", (event) => { if (event.persisted) come(); });
  come();
}

async function signedOut() {
  try { return (await fetch(new URL("events?limit=1", ROOT), { signal: AbortSignal.timeout(ANSWER_MS) })).status === 401; }
  catch { return false; }
}
