// What scripts add to the page: the reader's time zone, scrubbing, and live updates. Everything works without them.

import { health } from "./health.js";
import { room } from "./room.js";
import { rooms } from "./rooms.js";
import { localInputs, localTimes, zone } from "./times.js";

localTimes(document);
localInputs();
document.getElementById("zone").textContent = `in your time zone, ${zone}; hover over a time to see it in UTC`;
const live = document.querySelector("[data-live]");
if (live) ({ rooms, room, health })[live.dataset.live](live);
