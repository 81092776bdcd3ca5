// What the page knows of the instance: the last table, the last sample, rates, and histories.

import { COUNTERS, LATENCIES, RouteHistory, WEIGHT } from "./history.js";
import { LatencyWindow } from "./latency.js";

// Up to here every route has a history, so that one that is newly chosen is not empty. A history
// takes some 30 KB for each destination.
const ROUTES_WITH_HISTORY = 200;
const DESTINATIONS_WITH_HISTORY = 500;
const MAX_GAP = 5; // s, between samples from which a rate is taken

const FAILURES = "connect_failures_total";

function fits(sampled, routes) {
  return (
    sampled.length === routes.length &&
    sampled.every((rows, i) => rows.length === routes[i].destinations.length)
  );
}

function shapeOf(table) {
  return JSON.stringify(table.routes.map((r) => [r.name, r.destinations.map((d) => d.name)]));
}

export class Model {
  table = null;
  sample = null;
  chosen = null;
  // One figure per route, in the order of the table.
  rates = { connections: [], active: [], bytes: [], failures: [] };
  #columns = {};
  #shape = "";
  #indexes = new Map();
  #histories = new Map();
  #latencies = new LatencyWindow();

  route(name) {
    return this.table?.routes[this.#indexes.get(name)];
  }

  history(name) {
    return this.#histories.get(name);
  }

  // Host names of a destination that can't be looked up now.
  unresolved(route, destination) {
    return (this.sample?.troubles ?? []).filter(
      (t) => t.route === route && t.destination === destination && t.health === "unresolved",
    );
  }

  // What the last sample says of an endpoint that is not healthy, or is in its slow start; else undefined.
  trouble(route, destination, address) {
    return this.sample?.troubles?.find(
      (t) => t.route === route && t.destination === destination && t.address === address,
    );
  }

  // The row of a destination in the last sample, as {column: value}, or null.
  counters(routeName, position) {
    const row = this.sample?.routes[this.#indexes.get(routeName)]?.[position];
    if (!row) return null;
    return Object.fromEntries(this.table.columns.map((column, i) => [column, row[i]]));
  }

  choose(name) {
    this.chosen = name;
    if (this.table) this.#arrangeHistories();
  }

  setTable(table) {
    const shape = shapeOf(table);
    // Rows of a sample are told by their position, which now means something else.
    if (shape !== this.#shape) this.sample = null;
    this.#shape = shape;
    this.table = table;
    this.#columns = Object.fromEntries(table.columns.map((column, i) => [column, i]));
    this.#indexes = new Map(table.routes.map((route, i) => [route.name, i]));
    this.#arrangeHistories();
    if (!this.sample) this.#takeRates(null, null);
  }

  #arrangeHistories() {
    const { routes } = this.table;
    const destinations = routes.reduce((all, route) => all + route.destinations.length, 0);
    const all = routes.length <= ROUTES_WITH_HISTORY && destinations <= DESTINATIONS_WITH_HISTORY;
    const kept = new Map();
    for (const route of routes) {
      if (!all && route.name !== this.chosen) continue;
      const history = this.#histories.get(route.name) ?? new RouteHistory();
      history.setDestinations(route.destinations.map((d) => d.name));
      kept.set(route.name, history);
    }
    this.#histories = kept;
  }

  // False if the sample belongs to a table that is still to come.
  addSample(sample) {
    if (!this.table || !fits(sample.routes, this.table.routes)) return false;
    this.#takeRates(this.sample, sample);
    this.sample = sample;
    const latencies = this.#latenciesOf(sample);
    for (const [name, history] of this.#histories) {
      this.#addToHistory(name, history, sample, name === sample.histograms?.route ? latencies : null);
    }
    return true;
  }

  #latenciesOf(sample) {
    if (!sample.histograms) return null;
    const bounds = this.table.buckets.connect_seconds;
    return this.#latencies.add(sample.time, sample.histograms, bounds);
  }

  #addToHistory(name, history, sample, latencies) {
    const index = this.#indexes.get(name);
    const { destinations } = this.table.routes[index];
    const positions = new Map(destinations.map((d, i) => [d.name, i]));
    history.add(sample.time, [...COUNTERS, WEIGHT, ...LATENCIES], (destination, column) => {
      const position = positions.get(destination);
      if (column === WEIGHT) return destinations[position].effective_weight;
      if (LATENCIES.includes(column)) return latencies?.get(destination)?.[column];
      return sample.routes[index][position][this.#columns[column]];
    });
  }

  #takeRates(before, now) {
    const length = this.table.routes.length;
    const nothing = () => new Float64Array(length).fill(NaN);
    const rates = { connections: nothing(), active: nothing(), bytes: nothing(), failures: nothing() };
    this.rates = rates;
    if (!now) return;
    const total = (rows, column) => {
      const at = this.#columns[column];
      return rows.reduce((all, row) => all + row[at], 0);
    };
    const seconds = before ? now.time - before.time : Infinity;
    for (let i = 0; i < length; i += 1) {
      rates.active[i] = total(now.routes[i], "connections_active");
      if (!(seconds > 0 && seconds <= MAX_GAP)) continue;
      const grown = (column) => {
        const difference = total(now.routes[i], column) - total(before.routes[i], column);
        return difference >= 0 ? difference / seconds : NaN;
      };
      rates.connections[i] = grown("connections_total");
      rates.bytes[i] = grown("bytes_in_total") + grown("bytes_out_total");
      rates.failures[i] = grown(FAILURES);
    }
  }
}
