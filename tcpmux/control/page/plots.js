// The plots of the chosen route: which there are, and which lines each has.

import * as format from "./format.js";
import { Plot } from "./plot.js";
import { shares, sum } from "./series.js";

export const COLOURS = 8; // --series-1 to --series-8
const BINARY_STEPS = Array.from({ length: 51 }, (_, power) => 2 ** power);

// A solid line for each name, and with `dashed` one more, which the legend has behind the first.
const linesOf = (names, dashed = null, stepped = false) =>
  names.flatMap((name, i) => [
    { name, colour: seriesColour(i) },
    ...(dashed ? [{ name, colour: seriesColour(i), dashed, stepped }] : []),
  ]);

export function seriesColour(position) {
  return `series-${position + 1}`;
}

const interleave = (first, second) => first.flatMap((values, i) => [values, second[i]]);

// `values(history, drawn)` gives a list for each of `lines(drawn)`. All destinations count for
// shares and sums, even where only some are drawn.
const KINDS = [
  {
    id: "split",
    title: "Split of new connections",
    note: "solid: actual, dashed: target in effect",
    format: format.percent,
    range: "share",
    lines: (drawn) => linesOf(drawn, "target", true),
    values(history, drawn) {
      const of = (column) => shares(history.names.map((name) => history.column(name, column)));
      const [actual, target] = [of("connections"), of("weight")];
      return drawn.flatMap((name) => {
        const at = history.names.indexOf(name);
        return [actual[at], target[at]];
      });
    },
  },
  {
    id: "connections",
    title: "New connections per second",
    format: format.rate,
    range: "linear",
    lines: (drawn) => linesOf(drawn),
    values: (history, drawn) => drawn.map((name) => history.column(name, "connections")),
  },
  {
    id: "failures",
    title: "Failures per second",
    note: "failed connects, and connections lost",
    format: format.rate,
    range: "linear",
    lines: (drawn) => [...linesOf(drawn), { name: "clients lost", colour: "down" }],
    values: (history, drawn) => [
      ...drawn.map((name) => history.column(name, "connect_failures")),
      history.lost,
    ],
  },
  {
    id: "latency",
    title: "Time to connect",
    note: "solid: p50, dashed: p99",
    format: format.latency,
    range: "logarithmic",
    lines: (drawn) => linesOf(drawn, "p99"),
    values: (history, drawn) =>
      interleave(
        drawn.map((name) => history.column(name, "connect_p50_seconds")),
        drawn.map((name) => history.column(name, "connect_p99_seconds")),
      ),
  },
  {
    id: "bytes",
    title: "Bytes per second",
    note: "all destinations",
    format: format.byteRate,
    tick: (value) => format.byteRate(value).replace(".0 ", " "),
    range: "linear",
    smallestMax: 1024,
    increments: BINARY_STEPS,
    lines: () => linesOf(["from clients", "to clients"]),
    values: (history) =>
      ["bytes_in", "bytes_out"].map((column) =>
        sum(history.names.map((name) => history.column(name, column))),
      ),
  },
];

// More lines could not be told apart: the destinations with the greatest weights, in their order.
export function drawnDestinations(route) {
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

  // span: of the time axis, s.
  update(history, span) {
    if (!history.times.length) return;
    this.#plots.forEach((plot, i) => {
      plot.update(history.times, KINDS[i].values(history, this.#names), history.marks, span);
    });
  }

  restyle() {
    this.#plots.forEach((plot) => plot.restyle());
  }
}
