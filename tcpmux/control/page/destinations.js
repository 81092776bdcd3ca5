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
  if (destination.effective_weight !== destination.weight) {
    marks.push(`effective: ${format.count(destination.effective_weight)}`);
  }
  const weight = format.count(destination.weight);
  return marks.length ? `${weight} (${marks.join(", ")})` : weight;
}

function measuredNow(route, history) {
  if (!history?.length) return new Map();
  const counters = route.destinations.map((d) => history.column(d.name, "connections_total"));
  const shares = measuredShares(history.times(), counters);
  return new Map(route.destinations.map((d, i) => [d.name, shares[i].at(-1) ?? NaN]));
}

function endpointRow() {
  const address = element("th", { scope: "row", class: "endpoint" });
  const turns = element("td", { colspan: 3 });
  const state = element("td", { class: "state" });
  return {
    node: element("tr", { class: "endpoint" }, address, turns, state, element("td", { colspan: 5 })),
    update({ endpoint, turns: all }) {
      setText(address, endpoint.address);
      setText(turns, `${format.count(endpoint.turns)} of ${format.plural(all, "turn")}`);
      showState(state, endpoint.state);
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
    update({ destination, counters, askedShare, measuredShare }) {
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
      rows.show(destination.endpoints.map((endpoint) => ({ endpoint, turns })));
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
        measuredShare: measured.get(destination.name) ?? NaN,
      });
    });
  }
}
