// The plots of the chosen route: which there are, and which lines each has.

import * as format from "./format.js";
import { WEIGHT } from "./history.js";
import { COLOURS, Plot } from "./plot.js";
import { askedShares, measuredShares, rates, sum, WINDOW, withoutNaN } from "./series.js";

const BINARY_STEPS = Array.from({ length: 51 }, (_, power) => 2 ** power);

const perDestination = (names) => names.map((name, i) => ({ label: name, name, colour: i }));

const solidAndDashed = (solid, dashed) => (names) =>
  names.flatMap((name, i) => [
    { label: `${name} ${solid}`, name, colour: i },
    { label: `${name} ${dashed}`, colour: i, dashed: true },
  ]);

const ratesOf = (history, times, names, column) =>
  names.map((name) => rates(times, history.column(name, column)));

const interleave = (first, second) => first.flatMap((values, i) => [values, second[i]]);

// `values(history, times, names)` gives a list for each of `lines(names)`. All names count for
// shares and sums, even where only some are drawn.
const KINDS = [
  {
    id: "split",
    title: "Split of new connections",
    note: `solid: measured over ${WINDOW} s, dashed: asked for`,
    format: format.percent,
    range: "share",
    lines: solidAndDashed("measured", "asked for"),
    values(history, times, drawn) {
      const names = history.names;
      const of = (column) => names.map((name) => history.column(name, column));
      const measured = measuredShares(times, of("connections_total"));
      const asked = askedShares(of(WEIGHT));
      return drawn.flatMap((name) => [measured[names.indexOf(name)], asked[names.indexOf(name)]]);
    },
  },
  {
    id: "connections",
    title: "New connections per second",
    format: format.rate,
    range: "linear",
    lines: perDestination,
    values: (history, times, drawn) => ratesOf(history, times, drawn, "connections_total"),
  },
  {
    id: "bytes",
    title: "Bytes per second",
    note: "all destinations",
    format: format.byteRate,
    range: "linear",
    smallestMax: 1024,
    increments: BINARY_STEPS,
    lines: () => [
      { label: "from clients", name: "from", colour: 0 },
      { label: "to clients", name: "to", colour: 1 },
    ],
    values: (history, times) =>
      ["bytes_in_total", "bytes_out_total"].map((column) =>
        sum(ratesOf(history, times, history.names, column)),
      ),
  },
  {
    id: "failures",
    title: "Failures per second",
    note: "solid: failed connects, dashed: errors",
    format: format.rate,
    range: "linear",
    lines: solidAndDashed("failed connects", "errors"),
    values: (history, times, drawn) =>
      interleave(
        ratesOf(history, times, drawn, "connect_failures_total"),
        ratesOf(history, times, drawn, "errors_total"),
      ),
  },
  {
    id: "latency",
    title: "Time to connect",
    note: "solid: p50, dashed: p99, over 10 s",
    format: format.latency,
    range: "logarithmic",
    lines: solidAndDashed("p50", "p99"),
    values: (history, times, drawn) =>
      drawn.flatMap((name) =>
        ["p50", "p99"].map((column) => withoutNaN(history.column(name, column))),
      ),
  },
];

// More lines could not be told apart: the destinations with the greatest weights, in their order.
function drawnDestinations(route) {
  const greatest = [...route.destinations]
    .sort((a, b) => b.effective_weight - a.effective_weight)
    .slice(0, COLOURS);
  return route.destinations.filter((d) => greatest.includes(d)).map((d) => d.name);
}

export class Plots {
  #plots;
  #names = [];
  #shown = "";

  // The split has a place of its own, beside the weights.
  constructor(splitParent, parent) {
    this.#plots = KINDS.map((kind) => new Plot(kind.id === "split" ? splitParent : parent, kind));
  }

  setRoute(route) {
    const names = drawnDestinations(route);
    const shown = JSON.stringify([route.name, names]);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#names = names;
    this.#plots.forEach((plot, i) => plot.setLines(KINDS[i].lines(names)));
  }

  get drawn() {
    return this.#names.length;
  }

  update(history) {
    if (!history?.length) return;
    const times = history.times();
    this.#plots.forEach((plot, i) => {
      plot.update(times, KINDS[i].values(history, times, this.#names));
    });
  }

  restyle() {
    this.#plots.forEach((plot) => plot.restyle());
  }
}
