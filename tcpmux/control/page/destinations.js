// The destinations of the chosen route, with the endpoints of each below it.

import { byId, element, KeyedNodes, setAttribute, setText, showState } from "./dom.js";
import * as format from "./format.js";
import { WEIGHT } from "./history.js";
import { measuredShares } from "./series.js";

// Like the command line: the weight, and what else it could be taken for.
function weightText(destination) {
  const marks = [];
  if (destination.file_weight !== destination.weight) {
    marks.push(`file: ${format.count(destination.file_weight)}`);
  }
  if (destination.weight && destination.endpoints.length && !destination.endpoints.some((e) => e.turns)) {
    marks.push("no endpoint is left");
  } else if (destination.slow_start_percent < 100) {
    marks.push(`slow start: ${destination.slow_start_percent}%`);
  }
  if (destination.panic) marks.push("panic: health is ignored");
  const weight = format.count(destination.weight);
  return marks.length ? `${weight} (${marks.join(", ")})` : weight;
}

function measuredNow(route, history) {
  if (!history?.length) return new Map();
  const counters = route.destinations.map((d) => history.column(d.name, "connections_total"));
  const shares = measuredShares(history.times(), counters);
  return new Map(route.destinations.map((d, i) => [d.name, shares[i].at(-1) ?? NaN]));
}

// Why an endpoint does not have its full share: since when, and when it is tried again.
function healthText(endpoint, trouble, now) {
  const texts = [];
  if (trouble && trouble.health !== "up") {
    let text = trouble.health;
    if (trouble.health_since) text += ` for ${format.duration(now - trouble.health_since)}`;
    if (trouble.health_reason) text += `: ${trouble.health_reason}`;
    if (trouble.next_try) text += `; tried again in ${format.duration(trouble.next_try - now)}`;
    texts.push(text);
  } else if (trouble) {
    if (trouble.slow_start_percent < 100) texts.push(`slow start: ${trouble.slow_start_percent}% of its share`);
    if (trouble.health_reason) texts.push(trouble.health_reason);
  }
  if (endpoint.state_until) {
    texts.push(`ready again in ${format.duration(endpoint.state_until - now)}`);
  }
  return texts.join("; ");
}

function endpointRow() {
  const address = element("th", { scope: "row", class: "endpoint" });
  const turns = element("td", { colspan: 3 });
  const state = element("td", { class: "state" });
  const health = element("td", { colspan: 5, class: "health" });
  return {
    node: element("tr", { class: "endpoint" }, address, turns, state, health),
    update({ endpoint, turns: all, trouble, now }) {
      setText(address, endpoint.address);
      setText(turns, `${format.count(endpoint.turns)} of ${format.plural(all, "turn")}`);
      const isDown = trouble && trouble.health !== "up";
      showState(state, isDown && endpoint.state === "ready" ? trouble.health : endpoint.state);
      setText(health, healthText(endpoint, trouble, now));
    },
  };
}

function destinationGroup() {
  const name = element("th", { scope: "rowgroup" });
  const [weight, asked, active, total, failures, received, sent] = Array.from({ length: 7 }, () =>
    element("td"),
  );
  const measured = element("span");
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  const state = element("td", { class: "state" });
  const node = element(
    "tbody",
    {},
    element("tr", { class: "destination" }, name, weight, asked,
      element("td", { class: "measured" }, measured, bar),
      state, active, total, failures, received, sent),
  );
  // Endpoints follow the first row, which is not one of theirs.
  const endpoints = element("tbody", { class: "endpoints" });
  const rows = new KeyedNodes(endpoints, ({ endpoint }) => endpoint.address, endpointRow);
  const figures = [
    [active, "connections_active", format.count],
    [total, "connections_total", format.count],
    [failures, "connect_failures_total", format.count],
    [received, "bytes_in_total", format.bytes],
    [sent, "bytes_out_total", format.bytes],
  ];
  return {
    nodes: [node, endpoints],
    update({ destination, counters, askedShare, measuredShare, troubleOf, unresolved, now }) {
      setText(name, destination.name);
      setText(weight, weightText(destination));
      setText(asked, format.percent(askedShare));
      setText(measured, format.percent(measuredShare));
      bar.style.setProperty("--measured", Number.isFinite(measuredShare) ? measuredShare : 0);
      bar.style.setProperty("--asked", Number.isFinite(askedShare) ? askedShare : 0);
      showState(state, destination.state);
      for (const [cell, column, write] of figures) setText(cell, write(counters?.[column]));
      setAttribute(failures, "class", counters?.connect_failures_total > 0 ? "bad" : null);
      const turns = destination.endpoints.reduce((all, endpoint) => all + endpoint.turns, 0);
      // Names that can't be looked up stand where their addresses would.
      const names = unresolved.map(({ address }) => ({ address, turns: 0, state: "ready" }));
      rows.show([...destination.endpoints, ...names].map((endpoint) => (
        { endpoint, turns, now, trouble: troubleOf(endpoint.address) }
      )));
    },
  };
}

export class Destinations {
  #model;
  #table = byId("destination-table");
  #groups = new Map();
  #route = null;

  constructor(model) {
    this.#model = model;
  }

  update(route) {
    const names = route.destinations.map((d) => d.name);
    if (route.name !== this.#route || names.join() !== [...this.#groups.keys()].join()) {
      for (const group of this.#groups.values()) group.nodes.forEach((node) => node.remove());
      this.#groups = new Map(names.map((name) => [name, destinationGroup()]));
      this.#table.append(...[...this.#groups.values()].flatMap((group) => group.nodes));
      this.#route = route.name;
    }
    const total = route.destinations.reduce((all, d) => all + d[WEIGHT], 0);
    const measured = measuredNow(route, this.#model.history(route.name));
    route.destinations.forEach((destination, position) => {
      this.#groups.get(destination.name).update({
        destination,
        counters: this.#model.counters(route.name, position),
        askedShare: total ? destination[WEIGHT] / total : NaN,
        now: this.#model.sample?.time ?? this.#model.table.time,
        troubleOf: (address) => this.#model.trouble(route.name, destination.name, address),
        unresolved: this.#model.unresolved(route.name, destination.name),
        measuredShare: measured.get(destination.name) ?? NaN,
      });
    });
  }
}
