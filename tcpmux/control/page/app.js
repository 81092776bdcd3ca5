// Brings the parts together: the stream fills the model, the views show it, the address names the
// chosen route.

import { showRole } from "./access.js";
import { ActionDialog } from "./action_dialog.js";
import { hasToken, refusals, setToken } from "./api.js";
import { Connections } from "./connections.js";
import { Convergence } from "./convergence.js";
import { Destinations } from "./destinations.js";
import { byId, setAttribute, setText, showState } from "./dom.js";
import { EventStream } from "./event_stream.js";
import { Events } from "./events.js";
import * as format from "./format.js";
import { Freshness } from "./freshness.js";
import { KEPT } from "./history.js";
import { HistoryLoader } from "./history_loader.js";
import { placeInLocation } from "./location.js";
import { Mirror } from "./mirror.js";
import { Model } from "./model.js";
import { Plots } from "./plots.js";
import { Problems } from "./problems.js";
import { askForReload } from "./reload.js";
import { RolloutView } from "./rollout.js";
import { RouteList } from "./route_list.js";
import { Rules } from "./rules.js";
import { Weights } from "./weights.js";
import { Workers } from "./workers.js";

const THEME_KEY = "tcpmux-theme";
const SHORT_SPAN = 600; // s, of the plots

const model = new Model();
const freshness = new Freshness();
const problems = new Problems(model);
const routes = new RouteList(model);
const dialog = new ActionDialog(report);
const destinations = new Destinations(model, dialog);
const convergence = new Convergence(model, dialog);
const rollout = new RolloutView(model, dialog);
const mirror = new Mirror();
const rules = new Rules();
const plots = new Plots(byId("split-place"), byId("plots"));
const history = new HistoryLoader(model, drawSoon);
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
    history.loadSoon();
    if (list.some(({ kind }) => kind === "rollout")) rollout.load();
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
  convergence.update(route);
  // Of another route until the first sample after a choice.
  mirror.update(sample?.histograms?.route === route.name ? sample.mirror : null);
  rules.update(route, sample?.rules);
  plots.update(model.history, byId("plots-span").value === "hour" ? KEPT : SHORT_SPAN);
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
    history.loadSoon();
  }
  drawSoon();
}

function choose(name) {
  model.choose(name);
  stream.open(name === null ? "/v1/stream" : `/v1/stream?route=${encodeURIComponent(name)}`);
  showRoute();
  routes.update();
  history.load();
  if (model.table && name !== null) routes.reveal(name);
}

function stickyNote(route) {
  return route.sticky ? `; sticky by ${route.sticky}: shares are of clients, not exactly of connections` : "";
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
  setText(byId("route-listen"), route ? `on ${route.listen.join(", ")}${stickyNote(route)}` : "");
  document.title = route ? `${name} – tcpmux` : "tcpmux";
  connections.setRoute();
  if (!route) return;
  plots.setRoute(route);
  const left = route.destinations.length - plots.drawn;
  setText(byId("plots-note"), `The ${plots.drawn} destinations with the greatest weights are drawn, ${left} are not.`);
  byId("plots-note").hidden = left === 0;
  weights.update(route);
  rollout.setRoute(route);
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

byId("reload").addEventListener("click", () => askForReload(dialog, model.table));

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
