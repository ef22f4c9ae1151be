import htmx from "htmx.org/dist/htmx.esm.js";
import { startCharts } from "./chart-loader.js";
import { startCopy } from "./copy.js";
import { startDialogs } from "./dialogs.js";
import { startForms } from "./forms.js";
import { startKeys } from "./keys.js";
import { startLive } from "./live.js";
import { startMenus } from "./menus.js";
import { startPalette } from "./palette.js";
import { startPrefs } from "./prefs.js";
import { startSliders } from "./sliders.js";
import { startTables } from "./tables.js";
import { startTimes } from "./times.js";
import { startToasts } from "./toasts.js";

document.body.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRFToken"] = document.body.dataset.csrf;
});

for (const start of [startDialogs, startMenus, startPrefs, startToasts, startTables, startForms, startPalette, startKeys, startCopy,
  startTimes, startSliders, startLive, startCharts]) start();

document.documentElement.dataset.ready = "";
export { htmx };
