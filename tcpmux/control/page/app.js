// Brings the parts together: the stream fills the model, the views show it, the address names the
// chosen route.

import { Events, Workers } from "./activity.js";
import { hasToken, refusals, setToken } from "./api.js";
import { Connections } from "./connections.js";
import { Destinations } from "./destinations.js";
import { byId, setAttribute, setText, showState } from "./dom.js";
import { EventStream } from "./event_stream.js";
import * as format from "./format.js";
import { routeInLocation } from "./location.js";
import { Model } from "./model.js";
import { Plots } from "./plots.js";
import { RouteList } from "./route_list.js";
import { Weights } from "./weights.js";

const THEME_KEY = "tcpmux-theme";

const model = new Model();
const routes = new RouteList(model);
const destinations = new Destinations(model);
const plots = new Plots(byId("split-place"), byId("plots"));
const workers = new Workers();
const events = new Events();
const weights = new Weights(report);
const connections = new Connections(model, report);
const stream = new EventStream({
  onEvent: (type, value) => received[type]?.(value),
  onState: showLive,
});

const received = {
  table: setTable,
  sample(sample) {
    if (model.addSample(sample)) drawSoon();
  },
  events: (list) => events.add(list),
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
  }
  routes.update();
  const route = model.route(model.chosen);
  if (!route) return;
  destinations.update(route);
  plots.update(model.history(route.name));
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
  const wanted = routeInLocation() ?? before ?? table.routes[0]?.name ?? null;
  if (wanted !== model.chosen) choose(wanted);
  else showRoute();
  drawSoon();
}

function choose(name) {
  model.choose(name);
  stream.open(name === null ? "/v1/stream" : `/v1/stream?route=${encodeURIComponent(name)}`);
  showRoute();
  routes.update();
  if (model.table && name !== null) routes.reveal(name);
}

function showRoute() {
  if (!model.table) return;
  const name = model.chosen;
  const route = model.route(name);
  byId("route-body").hidden = !route;
  setText(byId("route-title"), route ? name : name === null ? "No route" : `No route is called ${name}`);
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

function showLive(state, why) {
  showState(byId("live-state"), state);
  setAttribute(byId("live-state"), "title", why || null);
}

function report(text, failed = false) {
  const result = byId("result");
  setAttribute(result, "data-failed", failed);
  setText(result, failed ? `Failed: ${text}` : text);
}

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
  choose(model.chosen ?? routeInLocation());
});

window.addEventListener("hashchange", () => {
  const name = routeInLocation();
  if (name === null || name === model.chosen) return;
  choose(name);
  drawSoon();
});

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

choose(routeInLocation());
