// The page about the server's health.

import { keepFresh } from "./fresh.js";
import { fetchPage, take } from "./parts.js";
import { localTimes } from "./times.js";

const EVERY_MS = 5000;

export function health(live) {
  const fresh = keepFresh({
    head: Number(live.dataset.head), part: "#health", concerns: () => false,
    inUse: () => document.querySelector("#health details[open]") && "paused while a callback is open",
    refresh: async (_, free) => {
      const page = await fetchPage(location.href);
      free();
      localTimes(page);
      for (const part of ["#banners", "#health"]) take(page, part);
    },
  });
  setInterval(fresh.touch, EVERY_MS);
  document.addEventListener("toggle", fresh.settle, true);
}
