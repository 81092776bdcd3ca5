// One plot over time: uPlot with the page's colours, the names of the lines at their ends, the
// values in words below, and a text alternative.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { element, KeyedNodes, setAttribute, setText } from "./dom.js";
import { clockTick } from "./format.js";
import { KEPT } from "./history.js";

const HEIGHT = 190; // px
const SHORTEST_SPAN = 120; // s, so that the first samples are not stretched over the whole width
const DESCRIBE_EVERY = 10_000; // ms; more often would talk without end
const LABEL_WIDTH = 64; // px, to the right of the lines
const LABEL_HEIGHT = 12; // px
const DASH = [5, 4];

export const COLOURS = 8; // --series-1 to --series-8

// The canvas needs a colour that is worked out: light-dark() and var() mean nothing there.
const probe = element("span", { hidden: true });

function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function seriesColour(line) {
  return colour(`series-${(line.colour % COLOURS) + 1}`);
}

function linearRange(smallestMax) {
  return (plot, min, max) => {
    const highest = Math.max(max ?? 0, smallestMax);
    return [0, uPlot.rangeNum(0, highest, 0.1, true)[1]];
  };
}

function logarithmicRange(plot, min, max) {
  if (!(min > 0)) return [1e-4, 1e-1];
  return [10 ** Math.floor(Math.log10(min)), 10 ** Math.ceil(Math.log10(max) + 1e-9)];
}

export class Plot {
  #kind;
  #figure;
  #stage;
  #legend;
  #lines = [];
  #data = [[]];
  #plot = null;
  #span = [0, SHORTEST_SPAN];
  #describedAt = -Infinity;
  #shownIndex = null;

  // kind: {id, title, note, format, tick, range ("linear", "share" or "logarithmic"), increments}
  constructor(parent, kind) {
    this.#kind = kind;
    this.#stage = element("div", { class: "stage", role: "img", id: `plot-${kind.id}` });
    const legend = element("ul", { class: "legend" });
    this.#legend = new KeyedNodes(legend, (entry) => entry.line.label, ({ line }) => this.#entry(line));
    const caption = element("figcaption", {}, element("h4", {}, kind.title));
    if (kind.note) caption.append(element("span", { class: "note" }, kind.note));
    this.#figure = element("figure", { class: `plot plot-${kind.id}` }, caption, this.#stage, legend);
    parent.append(this.#figure);
    new ResizeObserver(() => this.#resize()).observe(this.#stage);
  }

  // lines: [{label, colour, dashed, name}], where `name` is written at the end of the line.
  setLines(lines) {
    this.#lines = lines;
    this.#plot?.destroy();
    this.#plot = null;
    this.#data = [[], ...lines.map(() => [])];
    this.#describedAt = -Infinity;
    this.#legend.show([]);
  }

  // After a change of theme: what is drawn has its colours in it.
  restyle() {
    this.#plot?.destroy();
    this.#plot = null;
    this.#legend.show([]);
    this.#draw();
  }

  update(times, values) {
    this.#data = [times, ...values];
    const last = times.at(-1) ?? 0;
    const first = Math.max(times[0] ?? 0, last - KEPT);
    this.#span = [Math.min(first, last - SHORTEST_SPAN), last];
    this.#draw();
  }

  #draw() {
    if (!this.#data[0].length) return;
    if (this.#plot) this.#plot.setData(this.#data);
    else if (this.#stage.clientWidth) this.#plot = new uPlot(this.#options(), this.#data, this.#stage);
    this.#read();
    this.#describe();
  }

  #resize() {
    const width = this.#stage.clientWidth;
    if (!width) return;
    if (!this.#plot) this.#draw();
    else if (this.#plot.width !== width) this.#plot.setSize({ width, height: HEIGHT });
  }

  #options() {
    const kind = this.#kind;
    const axis = colour("muted");
    const grid = { stroke: colour("grid"), width: 1 };
    const ranges = {
      linear: { range: linearRange(kind.smallestMax ?? 1) },
      share: { range: [0, 1] },
      logarithmic: { distr: 3, range: logarithmicRange },
    };
    return {
      width: this.#stage.clientWidth,
      height: HEIGHT,
      padding: [8, LABEL_WIDTH, 0, 0],
      legend: { show: false },
      // Dragging would zoom into something that moves on.
      cursor: { sync: { key: "tcpmux" }, drag: { x: false, y: false }, y: false },
      scales: { x: { range: () => this.#span }, y: ranges[kind.range] },
      axes: [
        {
          stroke: axis, grid, ticks: grid, space: 70,
          values: (plot, splits) => splits.map(clockTick),
        },
        {
          stroke: axis, grid, ticks: grid, size: 72, space: 34,
          ...(kind.increments && { incrs: kind.increments }),
          ...(kind.range === "share" && { incrs: [0.1, 0.2, 0.25, 0.5] }),
          values: (plot, splits) => splits.map((v) => (v === null ? "" : (kind.tick ?? kind.format)(v))),
        },
      ],
      series: [
        {},
        ...this.#lines.map((line) => ({
          label: line.label,
          stroke: seriesColour(line),
          width: line.dashed ? 1.25 : 1.75,
          dash: line.dashed ? DASH : undefined,
          points: { show: false },
        })),
      ],
      hooks: {
        draw: [(plot) => this.#nameLines(plot)],
        setCursor: [(plot) => ((this.#shownIndex = plot.cursor.idx ?? null), this.#read())],
      },
    };
  }

  // Names at the ends of the lines, pushed apart, so that no one needs to tell colours apart.
  #nameLines(plot) {
    const { ctx, bbox } = plot;
    const ratio = uPlot.pxRatio;
    const labels = [];
    this.#lines.forEach((line, i) => {
      const value = this.#data[i + 1].at(-1);
      if (line.name && value !== null && value !== undefined) {
        labels.push({ line, y: plot.valToPos(value, "y", true) });
      }
    });
    labels.sort((a, b) => a.y - b.y);
    const lowest = bbox.top + bbox.height;
    labels.forEach((label, i) => {
      if (i) label.y = Math.max(label.y, labels[i - 1].y + LABEL_HEIGHT * ratio);
    });
    for (let i = labels.length - 1; i >= 0; i -= 1) {
      const bound = i === labels.length - 1 ? lowest : labels[i + 1].y - LABEL_HEIGHT * ratio;
      labels[i].y = Math.min(labels[i].y, bound);
    }
    ctx.save();
    ctx.font = `600 ${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    for (const { line, y } of labels) {
      ctx.fillStyle = seriesColour(line);
      const text = line.name.length > 9 ? `${line.name.slice(0, 8)}…` : line.name;
      ctx.fillText(text, bbox.left + bbox.width + 5 * ratio, y);
    }
    ctx.restore();
  }

  #entry(line) {
    const swatch = element("span", { class: line.dashed ? "swatch dashed" : "swatch" });
    swatch.style.borderTopColor = seriesColour(line);
    const value = element("span", { class: "value" });
    return {
      node: element("li", {}, swatch, `${line.label} `, value),
      update: ({ text }) => setText(value, text),
    };
  }

  // The values under the pointer, otherwise the last ones.
  #read() {
    const entries = this.#lines.map((line, i) => {
      const values = this.#data[i + 1];
      const value = values[this.#shownIndex ?? values.length - 1];
      return { line, text: this.#kind.format(value ?? NaN) };
    });
    this.#legend.show(entries);
  }

  #describe() {
    const now = performance.now();
    if (now - this.#describedAt < DESCRIBE_EVERY) return;
    this.#describedAt = now;
    const parts = this.#lines.map((line, i) => {
      return `${line.label} ${this.#kind.format(this.#data[i + 1].at(-1) ?? NaN)}`;
    });
    setAttribute(this.#stage, "aria-label", `${this.#kind.title}. Now: ${parts.join(", ")}.`);
  }
}
