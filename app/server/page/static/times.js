// Times in the reader's time zone. In the hour that comes twice when a summer time ends, each says its offset.

const FORM = {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  hourCycle: "h23",
};
const toSecond = new Intl.DateTimeFormat(undefined, FORM);
const toMillisecond = new Intl.DateTimeFormat(undefined, { ...FORM, fractionalSecondDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const ISO = /[+-]?\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g;

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

export const iso = (ms) => new Date(ms).toISOString();

export const timeOfDay = (ms) => clock.format(new Date(ms));

export function shown(ms, form = toSecond) {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return null;
  return form.format(at) + (candidates(localText(ms)).length > 1 ? ` ${offset(ms)}` : "");
}

// "UTC+2", "UTC-3:30", "UTC".
function offset(ms) {
  const minutes = -new Date(ms).getTimezoneOffset();
  if (minutes === 0) return "UTC";
  const [hours, rest] = [Math.trunc(Math.abs(minutes) / 60), Math.round(Math.abs(minutes) % 60)];
  return `UTC${minutes < 0 ? "-" : "+"}${hours}${rest ? `:${String(rest).padStart(2, "0")}` : ""}`;
}

// How a field of type datetime-local writes a time.
export function localText(ms) {
  const at = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${String(at.getFullYear()).padStart(4, "0")}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const seconds = `${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
  return `${day}T${two(at.getHours())}:${two(at.getMinutes())}:${seconds}`;
}

// The times that a local text can mean: one, two in the hour that comes twice, none in the hour that is left out.
export function candidates(text) {
  const asUtc = Date.parse(`${text.length === 16 ? `${text}:00` : text}Z`);
  if (Number.isNaN(asUtc)) return [];
  const offsets = [-1, 1].map((days) => new Date(asUtc + days * 86400000).getTimezoneOffset());
  const times = [...new Set(offsets)].map((minutes) => asUtc + minutes * 60000);
  return times.filter((ms) => ms - new Date(ms).getTimezoneOffset() * 60000 === asUtc).sort((a, b) => a - b);
}

// Of the times that a local text can mean, the one on the side of `before`; null for none.
export function meant(text, before) {
  const times = candidates(text);
  if (!times.length) {
    const at = new Date(text).getTime();  // left out by the clocks: browsers go on by as much
    return Number.isNaN(at) ? null : at;
  }
  if (before === null || times.length === 1) return times[0];
  const side = new Date(before).getTimezoneOffset();
  return times.find((ms) => new Date(ms).getTimezoneOffset() === side) ?? times[0];
}

// Writes the times of a page as local ones: its text, what its drawings say to a pointer or a screen reader, its title.
export function localTimes(page) {
  for (const time of page.querySelectorAll("time[data-ms]")) {
    const text = shown(Number(time.dataset.ms));
    if (text !== null) time.textContent = text;
  }
  const localized = (text) => text.replace(ISO, (time) => shown(Date.parse(time), toMillisecond) ?? time);
  for (const title of page.querySelectorAll("svg title")) title.textContent = localized(title.textContent);
  for (const drawn of page.querySelectorAll("svg[aria-label], svg [aria-label]")) {
    drawn.setAttribute("aria-label", localized(drawn.getAttribute("aria-label")));
  }
  for (const badge of page.querySelectorAll(".badge[title]")) badge.title = localized(badge.title);
  page.title = localized(page.title);
}

// ---- fields for times: the browser's own ones, beside the field that is sent, which holds UTC ----

export function localInputs() {
  for (const field of document.querySelectorAll("input[data-moment]:not([type=hidden])")) {
    const [local, side, note] = ["input", "select", "small"].map((name) => document.createElement(name));
    const name = field.closest("label").firstChild.textContent.trim();
    Object.assign(local, { type: "datetime-local", step: "0.001", required: field.required });
    local.setAttribute("aria-label", name);
    side.setAttribute("aria-label", `${name}: which of the two times`);
    let before = null;  // what it held when somebody came: on whose side an ambiguous time is
    field.type = "hidden";
    field.required = false;
    field.after(local, side, note);
    local.addEventListener("focus", () => { before = field.value ? Date.parse(field.value) : null; });
    local.addEventListener("input", () => {
      const at = local.value ? meant(local.value, before) : null;
      field.value = at === null ? "" : iso(at);
      showSide(field);
    });
    side.addEventListener("change", () => { field.value = iso(before = Number(side.value)); });
    setField(field, field.value);
  }
}

// Shows a time in a field for times. What was typed since stays if the time is the one that was shown before.
export function setField(field, value) {
  if (field.dataset.shown === value) return;
  const [local] = beside(field);
  const at = Date.parse(value);
  field.dataset.shown = field.value = value;
  local.value = Number.isNaN(at) ? "" : localText(at);
  local.defaultValue = local.value;  // as the browser writes it
  showSide(field);
}

const beside = (field) => {
  const local = field.nextElementSibling;
  return [local, local.nextElementSibling, local.nextElementSibling.nextElementSibling];
};

function showSide(field) {
  const [local, side, note] = beside(field);
  const times = local.value ? candidates(local.value) : [];
  side.hidden = times.length < 2;
  side.replaceChildren(...(side.hidden ? [] : times).map((ms, i) => {
    const chosen = ms === Date.parse(field.value);
    return new Option(`${["first", "second"][i]}, ${offset(ms)}`, ms, chosen, chosen);
  }));
  const gap = local.value && !times.length && field.value;
  note.textContent = gap ? `left out by the clocks: read as ${shown(Date.parse(field.value))}` : "";
}
