// Brings the parts together: the stream fills the model, the views show it, the address names the
// chosen route.

import { showRole } from "./access.js";
import { ActionDialog, listOf } from "./action_dialog.js";
import { call, hasToken, refusals, setToken } from "./api.js";
import { Connections } from "./connections.js";
import { Destinations } from "./destinations.js";
import { byId, element, setAttribute, setText, showState } from "./dom.js";
import { EventStream } from "./event_stream.js";
import { Events } from "./events.js";
import * as format from "./format.js";
import { Freshness } from "./freshness.js";
import { KEPT } from "./history.js";
import { placeInLocation } from "./location.js";
import { Model } from "./model.js";
import { Plots } from "./plots.js";
import { Problems } from "./problems.js";
import { RouteList } from "./route_list.js";
import { appliedText, Weights } from "./weights.js";
import { Workers } from "./workers.js";

const THEME_KEY = "tcpmux-theme";
const SHORT_SPAN = 600; // s, of the plots
const SETTLE = 1000; // ms after an event, before its mark is asked for

const model = new Model();
const freshness = new Freshness();
const problems = new Problems(model);
const routes = new RouteList(model);
const dialog = new ActionDialog(report);
const destinations = new Destinations(model, dialog);
const plots = new Plots(byId("split-place"), byId("plots"));
const workers = new Workers();
const events = new Events();
const weights = new Weights(dialog);
const connections = new Connections(model, dialog);
const stream = new EventStream({
  onEvent: (type, value) => received[type]?.(value),
  onState: showLive,
});

const received = {
  table: setTable,
  sample(sample) {
    if (!model.addSample(sample)) return;
    freshness.heard(sample.time);
    drawSoon();
  },
  conditions: (conditions) => model.setConditions(conditions),
  events(list) {
    events.add(list);
    loadHistorySoon();
  },
};

// Without this the browser would draw for a tab that nobody sees; what was missed is in the model.
let drawing = false;
function drawSoon() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw() {
  const { sample, table } = model;
  if (sample) {
    setText(byId("instance-uptime"), format.duration(sample.time - table.started_at));
    setText(byId("instance-generation"), format.count(sample.generation));
    workers.update(sample);
    problems.update();
  }
  routes.update();
  const route = model.route(model.chosen);
  if (!route) return;
  const { condition, condition_reason: reason } = model.condition(route.name);
  showState(byId("route-state"), condition);
  setText(byId("route-reason"), reason);
  destinations.update(route);
  plots.update(model.history, byId("plots-span").value === "hour" ? KEPT : SHORT_SPAN);
}

// Of what has been since this page was opened the stream tells; of the hour before, control.
let historyTimer = null;
function loadHistorySoon() {
  clearTimeout(historyTimer);
  historyTimer = setTimeout(loadHistory, SETTLE);
}

async function loadHistory() {
  const { chosen: name, history } = model;
  if (!history) return;
  let failed = "";
  try {
    history.load(await call(`/v1/history?route=${encodeURIComponent(name)}`));
  } catch (error) {
    if (history.isLoaded) return;
    failed = `What was before this page was opened is not shown: ${error.message}.`;
  }
  if (history !== model.history) return;
  setText(byId("history-error"), failed);
  byId("history-error").hidden = !failed;
  drawSoon();
}

function setTable(table) {
  const another = model.table && model.table.started_at !== table.started_at;
  if (another) events.clear();
  model.setTable(table);
  setText(byId("instance-version"), table.version);
  setText(byId("instance-pid"), String(table.pid));
  setText(byId("instance-generation"), format.count(table.generation));
  showState(byId("instance-state"), table.state);
  const before = model.route(model.chosen) && model.chosen;
  const wanted = placeInLocation().route ?? before ?? table.routes[0]?.name ?? null;
  if (wanted !== model.chosen) choose(wanted);
  else {
    showRoute();
    loadHistorySoon();
  }
  drawSoon();
}

function choose(name) {
  model.choose(name);
  stream.open(name === null ? "/v1/stream" : `/v1/stream?route=${encodeURIComponent(name)}`);
  showRoute();
  routes.update();
  loadHistory();
  if (model.table && name !== null) routes.reveal(name);
}

function showRoute() {
  if (!model.table) return;
  const name = model.chosen;
  const route = model.route(name);
  byId("route-body").hidden = byId("route-state").hidden = !route;
  byId("route-missing").hidden = Boolean(route);
  setText(byId("route-title"), route || name !== null ? name : "Nothing to show yet");
  setText(byId("route-reason"), "");
  setText(
    byId("route-missing"),
    name === null
      ? "This instance has no routes. Add one under “routes:” in the configuration file, then reload."
      : "No route has this name (any more). Choose one from the list.",
  );
  setText(byId("route-listen"), route ? `on ${route.listen.join(", ")}` : "");
  document.title = route ? `${name} – tcpmux` : "tcpmux";
  connections.setRoute();
  if (!route) return;
  plots.setRoute(route);
  const left = route.destinations.length - plots.drawn;
  setText(byId("plots-note"), `The ${plots.drawn} destinations with the greatest weights are drawn, ${left} are not.`);
  byId("plots-note").hidden = left === 0;
  weights.update(route);
}

let wasLive = false;
function showLive(state, why) {
  const isLive = state === "live";
  showState(byId("live-state"), state);
  setAttribute(byId("live-state"), "title", why || null);
  freshness.explain(isLive ? "" : `${why}: ${state}.`);
  if (isLive && !wasLive) showRole();
  wasLive = isLive;
}

function report(text) {
  setText(byId("result"), text);
}

// Weights that were set at run time are what a reload takes back.
function askForReload() {
  const unsaved = (model.table?.routes ?? []).flatMap((route) =>
    route.destinations
      .filter((d) => d.weight !== d.file_weight)
      .map((d) => `${route.name} / ${d.name}: ${format.count(d.weight)}`),
  );
  const shown = unsaved.slice(0, 10);
  if (unsaved.length > shown.length) shown.push(`and ${format.plural(unsaved.length - shown.length, "other")}`);
  const warning = unsaved.length
    ? "These weights were set at run time, and go back to those of the file:"
    : "No weight was set at run time.";
  dialog.open({
    title: "Read the configuration files again?",
    content: [
      element("p", {}, "Open connections stay. If a file has a mistake, nothing changes."),
      element("p", {}, warning),
      listOf(shown),
    ],
    label: "Reload",
    perform: async () => appliedText(await call("/v1/reload", { method: "POST", body: {} })),
  });
}
byId("reload").addEventListener("click", askForReload);

byId("dismiss-result").addEventListener("click", () => report(""));

refusals.addEventListener("unauthorized", () => {
  const dialog = byId("token-dialog");
  setText(byId("token-reason"), hasToken() ? "The token was not accepted." : "This instance asks for one.");
  if (!dialog.open) dialog.showModal();
});

byId("token-form").addEventListener("submit", (event) => {
  if (event.submitter?.value === "cancel") return;
  setToken(byId("token").value);
  byId("token").value = "";
  choose(model.chosen ?? placeInLocation().route);
});

// A link that leads where one is already is followed as well.
function follow({ route, destination }) {
  if (route === null) return;
  if (route !== model.chosen) choose(route);
  drawSoon();
  if (destination !== null) requestAnimationFrame(() => destinations.reveal(destination));
}

window.addEventListener("hashchange", () => follow(placeInLocation()));
byId("problem-rows").addEventListener("click", (event) => {
  if (event.target.closest("a")?.hash === location.hash) follow(placeInLocation());
});

byId("plots-span").addEventListener("change", drawSoon);

// The hash is the chosen route's, so that this cannot be a plain link into the page.
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("detail").focus();
});

byId("theme").value = document.documentElement.dataset.theme;
byId("theme").addEventListener("change", (event) => {
  document.documentElement.dataset.theme = event.target.value;
  localStorage.setItem(THEME_KEY, event.target.value);
  plots.restyle();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.restyle());

choose(placeInLocation().route);
