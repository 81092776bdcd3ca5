// One plot over time: uPlot with the page's colours, the names of the lines at their ends, the
// values in words below, and a text alternative.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { element, KeyedNodes, setAttribute, setText } from "./dom.js";
import { clock, clockTick } from "./format.js";
import { colourOf } from "./kinds.js";

const HEIGHT = 170; // px
const SHORTEST_SPAN = 120; // s, so that the first samples are not stretched over the whole width
const DESCRIBE_EVERY = 10_000; // ms; more often would talk without end
const LABEL_WIDTH = 86; // px, to the right of the lines
const LABEL_HEIGHT = 12; // px
const DASH = [5, 4];
const NEAR = 6; // px between the pointer and a mark that it reads

// The canvas needs a colour that is worked out: light-dark() and var() mean nothing there.
const probe = element("span", { hidden: true });

function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

// As much of the text as the width (px of the canvas) has room for.
function fitted(ctx, text, width) {
  if (ctx.measureText(text).width <= width) return text;
  let kept = text.length - 1;
  while (kept > 1 && ctx.measureText(`${text.slice(0, kept)}…`).width > width) kept -= 1;
  return `${text.slice(0, kept)}…`;
}

// Lines for these alone: those between them say nothing.
function powersOfTen(plot, splits) {
  return splits.map((value) => (Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6 ? value : null));
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
  #marks = [];
  #markText = element("p", { class: "mark-text note" });

  // kind: {id, title, note, format, tick (as format, on the axis), range ("linear", "share" or
  // "logarithmic"), increments}
  constructor(parent, kind) {
    this.#kind = kind;
    this.#stage = element("div", { class: "stage", role: "img", id: `plot-${kind.id}` });
    const legend = element("ul", { class: "legend" });
    this.#legend = new KeyedNodes(legend, (entry) => entry.line.name, ({ line }) => this.#entry(line));
    const caption = element("figcaption", {}, element("h4", {}, kind.title));
    if (kind.note) caption.append(element("span", { class: "note" }, kind.note));
    this.#figure = element("figure", { class: `plot plot-${kind.id}` }, caption, this.#stage, legend);
    this.#stage.append(this.#markText);
    parent.append(this.#figure);
    new ResizeObserver(() => this.#resize()).observe(this.#stage);
  }

  // lines: [{name, colour, dashed, stepped}]. `colour` is a name in the style sheet, `name` is written
  // at the end of a solid line, `dashed` says what the line is that follows it.
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

  // marks: [{time, kind, level, text}]; span: s.
  update(times, values, marks, span) {
    this.#data = [times, ...values];
    this.#marks = marks;
    const last = times.at(-1) ?? 0;
    const first = Math.max(times[0] ?? 0, last - span);
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
    const rows = kind.range === "logarithmic" ? { ...grid, filter: powersOfTen } : grid;
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
          stroke: axis, grid, ticks: grid, space: 70, size: 30,
          values: (plot, splits) => splits.map(clockTick),
        },
        {
          stroke: axis, grid: rows, ticks: rows, size: 72, space: 34,
          ...(kind.increments && { incrs: kind.increments }),
          ...(kind.range === "share" && { incrs: [0.1, 0.2, 0.25, 0.5] }),
          values: (plot, splits) => splits.map((v) => (v === null ? "" : (kind.tick ?? kind.format)(v))),
        },
      ],
      series: [
        {},
        ...this.#lines.map((line) => ({
          label: `${line.name} ${line.dashed ?? ""}`,
          stroke: colour(line.colour),
          width: line.dashed ? 1.25 : 1.75,
          dash: line.dashed ? DASH : undefined,
          points: { show: false },
          paths: line.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
        })),
      ],
      hooks: {
        drawAxes: [(plot) => this.#drawMarks(plot)],
        draw: [(plot) => this.#nameLines(plot)],
        setCursor: [(plot) => this.#point(plot)],
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
      if (!line.dashed && value !== null && value !== undefined) {
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
      ctx.fillStyle = colour(line.colour);
      const text = fitted(ctx, line.name, (LABEL_WIDTH - 6) * ratio);
      ctx.fillText(text, bbox.left + bbox.width + 5 * ratio, y);
    }
    ctx.restore();
  }

  // A line down to the time axis for each, behind the values.
  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    const ratio = uPlot.pxRatio;
    ctx.save();
    for (const mark of this.#marks) {
      const { time } = mark;
      if (time < this.#span[0] || time > this.#span[1]) continue;
      const x = Math.round(plot.valToPos(time, "x", true));
      ctx.fillStyle = colour(colourOf(mark));
      ctx.globalAlpha = 0.45;
      ctx.fillRect(x, bbox.top, ratio, bbox.height);
      ctx.globalAlpha = 1;
      ctx.beginPath();
      ctx.moveTo(x - 4 * ratio, bbox.top);
      ctx.lineTo(x + 5 * ratio, bbox.top);
      ctx.lineTo(x + ratio / 2, bbox.top + 6 * ratio);
      ctx.fill();
    }
    ctx.restore();
  }

  #point(plot) {
    this.#shownIndex = plot.cursor.idx ?? null;
    this.#read();
    const at = plot.cursor.left;
    const near = this.#marks.filter(({ time }) => Math.abs(plot.valToPos(time, "x") - at) <= NEAR);
    const texts = at < 0 ? [] : near.map((mark) => `${clock(mark.time)} ${mark.text}`);
    setText(this.#markText, texts.join(" · "));
  }

  #entry(line) {
    const swatch = element("span", { class: "swatch" });
    swatch.style.borderTopColor = colour(line.colour);
    const value = element("span", { class: "value" });
    const second = element("span");
    return {
      node: element("li", {}, swatch, `${line.name} `, value, second),
      update({ texts: [text, dashed] }) {
        setText(value, text);
        setText(second, dashed ? ` (${dashed})` : "");
      },
    };
  }

  // One for each solid line: [its value, that of the dashed one with its name], as texts.
  #readings(index) {
    const texts = this.#lines.map((line, i) => {
      const values = this.#data[i + 1];
      return this.#kind.format(values[index ?? values.length - 1] ?? NaN);
    });
    return this.#lines.flatMap((line, i) => {
      if (line.dashed) return [];
      const { dashed } = this.#lines[i + 1] ?? {};
      return [{ line, texts: dashed ? [texts[i], `${dashed} ${texts[i + 1]}`] : [texts[i]] }];
    });
  }

  // The values under the pointer, otherwise the last ones.
  #read() {
    this.#legend.show(this.#readings(this.#shownIndex));
  }

  #describe() {
    const now = performance.now();
    if (now - this.#describedAt < DESCRIBE_EVERY) return;
    this.#describedAt = now;
    const parts = this.#readings(null).map(({ line, texts }) => `${line.name} ${texts.join(", ")}`);
    setAttribute(this.#stage, "aria-label", `${this.#kind.title}. Now: ${parts.join("; ")}.`);
  }
}
