// What the page knows of the instance: the last table, the samples of the last seconds, and the
// history of the chosen route.

import { RouteHistory } from "./history.js";
import { LatencyWindow } from "./latency.js";

const WINDOW = 10; // s, over which rates are taken
const RATES = {
  connections: ["connections_total"],
  bytes: ["bytes_in_total", "bytes_out_total"],
};
const HEALTHY = { condition: "healthy", condition_reason: "", condition_since: null };
// Which to look at first.
export const BY_URGENCY = ["down", "degraded", "drained", "disabled", "healthy"];

function fits(sampled, routes) {
  return (
    sampled.length === routes.length &&
    sampled.every((rows, i) => rows.length === routes[i].destinations.length)
  );
}

function shapeOf(table) {
  return JSON.stringify(table.routes.map((r) => [r.name, r.destinations.map((d) => d.name)]));
}

const keyOf = (route, destination = null, endpoint = null) =>
  JSON.stringify([route, destination, endpoint]);

export class Model {
  table = null;
  problems = []; // worst first; some, where there are very many
  problemsTotal = 0;
  chosen = null;
  history = null; // of the chosen route
  // One figure per route, in the order of the table.
  figures = { connections: [], active: [], bytes: [], lost: [] };
  #columns = {};
  #shape = "";
  #indexes = new Map();
  #recent = []; // samples of the WINDOW
  #conditions = new Map(); // of what is not healthy, or has something to say
  #latencies = new LatencyWindow();

  get sample() {
    return this.#recent.at(-1) ?? null;
  }

  route(name) {
    return this.table?.routes[this.#indexes.get(name)];
  }

  // {condition, condition_reason, condition_since} of a route, a destination or an endpoint.
  condition(route, destination, endpoint) {
    return this.#conditions.get(keyOf(route, destination, endpoint)) ?? HEALTHY;
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

  // How far a route's live connections are on their way to its weights; null = they stay where they
  // are; undefined = the instance does not tell.
  convergence(route) {
    const all = this.sample?.convergences;
    return all && (Object.hasOwn(all, route) ? all[route] : null);
  }

  // The row of a destination in the last sample, as {column: value}, or null.
  counters(routeName, position) {
    const row = this.sample?.routes[this.#indexes.get(routeName)]?.[position];
    if (!row) return null;
    return Object.fromEntries(this.table.columns.map((column, i) => [column, row[i]]));
  }

  choose(name) {
    if (name === this.chosen && this.history) return;
    this.chosen = name;
    this.#beginHistory();
  }

  setTable(table) {
    const shape = shapeOf(table);
    // Rows of a sample are told by their position, which now means something else.
    if (shape !== this.#shape) this.#recent = [];
    this.#shape = shape;
    this.table = table;
    this.#conditions.clear(); // the next message has all that are not healthy
    this.#columns = Object.fromEntries(table.columns.map((column, i) => [column, i]));
    this.#indexes = new Map(table.routes.map((route, i) => [route.name, i]));
    const route = this.route(this.chosen);
    if (route && this.history) this.history.setDestinations(route.destinations.map((d) => d.name));
    else this.#beginHistory();
    this.#takeFigures();
  }

  // Of each route that has changed, all of it.
  setConditions({ problems, problems_total: total, routes }) {
    this.problems = problems;
    this.problemsTotal = total;
    for (const route of routes) {
      this.#conditions.set(keyOf(route.name), route);
      for (const destination of route.destinations) {
        this.#conditions.set(keyOf(route.name, destination.name), destination);
        for (const { address, ...endpoint } of destination.endpoints) {
          this.#conditions.set(keyOf(route.name, destination.name, address), endpoint);
        }
      }
    }
  }

  #beginHistory() {
    const route = this.route(this.chosen);
    this.history = route ? new RouteHistory(route.destinations.map((d) => d.name)) : null;
  }

  // False if the sample belongs to a table that is still to come.
  addSample(sample) {
    if (!this.table || !fits(sample.routes, this.table.routes)) return false;
    const recent = this.#recent.filter((old) => old.time > sample.time - WINDOW - 0.5);
    this.#recent = [...recent, sample];
    this.#takeFigures();
    if (this.history) this.#addToHistory(sample);
    return true;
  }

  // How much what `counterOf(sample)` gives has grown per second; NaN with nothing to compare with.
  #rate(counterOf) {
    const [first, last] = [this.#recent[0], this.sample];
    const grown = counterOf(last) - counterOf(first);
    const seconds = last.time - first.time;
    return seconds > 0 && grown >= 0 ? grown / seconds : NaN;
  }

  #rateOf(route, position, column) {
    const at = this.#columns[column];
    return this.#rate((sample) => sample.routes[route][position][at]);
  }

  #addToHistory(sample) {
    const index = this.#indexes.get(this.chosen);
    const { destinations } = this.table.routes[index];
    const positions = new Map(destinations.map((d, i) => [d.name, i]));
    const ofChosen = sample.histograms?.route === this.chosen;
    const latencies = ofChosen
      ? this.#latencies.add(sample.time, sample.histograms, this.table.buckets.connect_seconds)
      : new Map();
    this.history.add(sample.time, this.figures.lost[index], (name, column) => {
      const position = positions.get(name);
      if (column === "weight") return destinations[position].effective_weight;
      if (column.endsWith("_seconds")) return latencies.get(name)?.[column];
      return this.#rateOf(index, position, `${column}_total`);
    });
  }

  #takeFigures() {
    const { routes } = this.table;
    const nothing = () => new Float64Array(routes.length).fill(NaN);
    this.figures = { connections: nothing(), active: nothing(), bytes: nothing(), lost: nothing() };
    if (!this.sample) return;
    const active = this.#columns.connections_active;
    routes.forEach(({ destinations }, i) => {
      const total = (valueOf) => destinations.reduce((all, _, d) => all + valueOf(d), 0);
      this.figures.lost[i] = this.#rate((sample) => sample.lost[i]);
      this.figures.active[i] = total((d) => this.sample.routes[i][d][active]);
      for (const [figure, columns] of Object.entries(RATES)) {
        this.figures[figure][i] = total((d) =>
          columns.reduce((all, column) => all + this.#rateOf(i, d, column), 0),
        );
      }
    });
  }
}
