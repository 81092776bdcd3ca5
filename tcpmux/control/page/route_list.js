// The list of routes: searched, sorted, and with rows only for what is in view, as there may be
// thousands.

import { byId, element, KeyedNodes, setAttribute, setText, showState, sortableHeaders } from "./dom.js";
import * as format from "./format.js";
import { hashOf } from "./location.js";
import { BY_URGENCY } from "./model.js";

const ROW_HEIGHT = 46; // px, as in the style sheet
const TALL_ROW_HEIGHT = 66; // where a name needs two lines
const LONG_NAME = 38; // characters
const BEYOND = 10; // rows above and below the view, so that Tab finds the next link

const FIGURES = [
  ["connections", format.rate],
  ["active", format.count],
  ["bytes", format.bytes],
  ["lost", format.rate],
];

function total(values) {
  let sum = 0;
  for (const value of values) if (Number.isFinite(value)) sum += value;
  return sum;
}

export class RouteList {
  #model;
  #scroll = byId("route-scroll");
  #search = byId("route-search");
  #rows;
  #found = []; // indexes into the table's routes
  #height = ROW_HEIGHT;
  #sort = { key: "condition", descending: false };

  constructor(model) {
    this.#model = model;
    this.#rows = new KeyedNodes(byId("route-rows"), (entry) => entry.route.name, () => this.#row());
    this.#search.addEventListener("input", () => this.#fromTop());
    this.#scroll.addEventListener("scroll", () => this.#showRows(), { passive: true });
    this.#scroll.addEventListener("keydown", (event) => this.#move(event));
    new ResizeObserver(() => this.#showRows()).observe(this.#scroll);
    sortableHeaders(byId("route-table"), this.#sort, () => this.#fromTop());
  }

  update() {
    if (!this.#model.table) return;
    this.#find();
    this.#showRows();
    for (const [figure, write] of FIGURES) {
      setText(byId(`all-${figure}`), write(total(this.#model.figures[figure])));
    }
  }

  // So that the chosen route is in view when the page is opened with one.
  reveal(name) {
    const position = this.#found.findIndex((index) => this.#model.table.routes[index].name === name);
    if (position >= 0) this.#bringIntoView(position);
  }

  #fromTop() {
    this.#scroll.scrollTop = 0;
    this.update();
  }

  #find() {
    const { routes } = this.#model.table;
    const tall = routes.some(({ name }) => name.length > LONG_NAME);
    this.#height = tall ? TALL_ROW_HEIGHT : ROW_HEIGHT;
    setAttribute(byId("route-table"), "data-tall", tall);
    const words = this.#search.value.trim().toLowerCase();
    const matches = (route) =>
      route.name.toLowerCase().includes(words) || route.listen.some((l) => l.includes(words));
    this.#found = [...routes.keys()].filter((index) => !words || matches(routes[index]));
    const { key, descending } = this.#sort;
    const sign = descending ? -1 : 1;
    const values = this.#valuesOf(key);
    this.#found.sort((a, b) => sign * ((values[a] || 0) - (values[b] || 0)) || a - b);
    const all = format.plural(routes.length, "route");
    setText(byId("route-count"), words ? `${format.count(this.#found.length)} of ${all}` : all);
    this.#showEmpty(words);
  }

  #valuesOf(key) {
    const { routes } = this.#model.table;
    if (key === "name") {
      const inOrder = [...routes.keys()].sort((a, b) => (routes[a].name < routes[b].name ? -1 : 1));
      const places = new Array(routes.length);
      inOrder.forEach((index, place) => (places[index] = place));
      return places;
    }
    if (key !== "condition") return this.#model.figures[key];
    const losing = new Set(
      this.#model.problems.filter((p) => p.severity === "error").map((p) => p.route),
    );
    return routes.map(({ name }) => {
      const urgency = BY_URGENCY.indexOf(this.#model.condition(name).condition);
      return losing.has(name) ? urgency : urgency + BY_URGENCY.length;
    });
  }

  #showEmpty(words) {
    const none = this.#found.length === 0;
    byId("route-scroll").hidden = none;
    byId("route-empty").hidden = !none;
    const advice = words
      ? `No route has “${this.#search.value.trim()}” in its name or address.`
      : "No routes yet. Add one under “routes:” in the configuration file, then reload.";
    setText(byId("route-empty"), advice);
  }

  #showRows() {
    if (!this.#model.table) return;
    const inView = Math.ceil(this.#scroll.clientHeight / this.#height);
    const top = Math.floor(this.#scroll.scrollTop / this.#height);
    const first = Math.max(0, Math.min(top, this.#found.length - inView) - BEYOND);
    const last = Math.min(this.#found.length, top + inView + BEYOND);
    byId("route-space-above").style.height = `${first * this.#height}px`;
    byId("route-space-below").style.height = `${(this.#found.length - last) * this.#height}px`;
    // Two more, for the head and the foot.
    setAttribute(byId("route-table"), "aria-rowcount", this.#found.length + 2);
    const { routes } = this.#model.table;
    this.#rows.show(
      this.#found.slice(first, last).map((index, i) => ({ route: routes[index], index, position: first + i })),
    );
  }

  #row() {
    const link = element("a");
    const state = element("td", { role: "cell", class: "state" });
    const cells = FIGURES.map(() => element("td", { role: "cell" }));
    // The style sheet has rows as grids, which would not be rows to a screen reader any more.
    const name = element("th", { scope: "row", role: "rowheader" }, link);
    const node = element("tr", { role: "row" }, name, state, ...cells);
    return {
      node,
      update: ({ route, index, position }) => {
        const { condition, condition_reason: reason } = this.#model.condition(route.name);
        setText(link, route.name);
        setAttribute(link, "href", hashOf(route.name));
        setAttribute(link, "title", `${route.name}: ${reason || route.listen.join(", ")}`);
        setAttribute(link, "aria-current", route.name === this.#model.chosen && "true");
        setAttribute(node, "aria-rowindex", position + 2);
        showState(state, condition);
        FIGURES.forEach(([figure, write], i) => {
          const value = this.#model.figures[figure][index];
          setText(cells[i], write(value));
          if (figure === "lost") setAttribute(cells[i], "class", value > 0 ? "bad" : null);
        });
      },
    };
  }

  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const name = document.activeElement?.closest("#route-rows tr")?.querySelector("a").textContent;
    if (!step || name === undefined) return;
    event.preventDefault();
    const { routes } = this.#model.table;
    const position = this.#found.findIndex((index) => routes[index].name === name) + step;
    if (position < 0 || position >= this.#found.length) return;
    this.#bringIntoView(position);
    this.#showRows();
    const links = [...byId("route-rows").querySelectorAll("a")];
    links.find((link) => link.textContent === routes[this.#found[position]].name)?.focus();
  }

  #bringIntoView(position) {
    const head = byId("route-table").tHead.offsetHeight;
    const foot = byId("route-table").tFoot.offsetHeight;
    const y = position * this.#height;
    const room = this.#scroll.clientHeight - head - foot - this.#height;
    if (y < this.#scroll.scrollTop) this.#scroll.scrollTop = y;
    else if (y > this.#scroll.scrollTop + room) this.#scroll.scrollTop = y - room;
  }
}
