// The list of routes: searched, sorted, and with rows only for what is in view, as there may be
// thousands.

import { byId, element, KeyedNodes, setAttribute, setText, sortableHeaders } from "./dom.js";
import * as format from "./format.js";
import { routeHash } from "./location.js";

const ROW_HEIGHT = 30; // px, as in the style sheet
const BEYOND = 10; // rows above and below the view, so that Tab finds the next link

const FIGURES = [
  ["connections", format.rate],
  ["active", format.count],
  ["bytes", format.bytes],
  ["failures", format.rate],
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
  #sort = { key: "name", descending: false };

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
      setText(byId(`all-${figure}`), write(total(this.#model.rates[figure])));
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
    const words = this.#search.value.trim().toLowerCase();
    const matches = (route) =>
      route.name.toLowerCase().includes(words) || route.listen.some((l) => l.includes(words));
    this.#found = [...routes.keys()].filter((index) => !words || matches(routes[index]));
    const { key, descending } = this.#sort;
    const sign = descending ? -1 : 1;
    if (key === "name") {
      if (descending) this.#found.reverse();
    } else {
      const values = this.#model.rates[key];
      this.#found.sort((a, b) => sign * ((values[a] || 0) - (values[b] || 0)) || a - b);
    }
    const all = format.plural(routes.length, "route");
    setText(byId("route-count"), words ? `${format.count(this.#found.length)} of ${all}` : all);
  }

  #showRows() {
    if (!this.#model.table) return;
    const inView = Math.ceil(this.#scroll.clientHeight / ROW_HEIGHT);
    const top = Math.floor(this.#scroll.scrollTop / ROW_HEIGHT);
    const first = Math.max(0, Math.min(top, this.#found.length - inView) - BEYOND);
    const last = Math.min(this.#found.length, top + inView + BEYOND);
    byId("route-space-above").style.height = `${first * ROW_HEIGHT}px`;
    byId("route-space-below").style.height = `${(this.#found.length - last) * ROW_HEIGHT}px`;
    // Two more, for the head and the foot.
    setAttribute(byId("route-table"), "aria-rowcount", this.#found.length + 2);
    const { routes } = this.#model.table;
    this.#rows.show(
      this.#found.slice(first, last).map((index, i) => ({ route: routes[index], index, position: first + i })),
    );
  }

  #row() {
    const link = element("a");
    const cells = FIGURES.map(() => element("td"));
    const node = element("tr", {}, element("th", { scope: "row" }, link), ...cells);
    return {
      node,
      update: ({ route, index, position }) => {
        setText(link, route.name);
        setAttribute(link, "href", routeHash(route.name));
        setAttribute(link, "title", `${route.name}: ${route.listen.join(", ")}`);
        setAttribute(link, "aria-current", route.name === this.#model.chosen && "true");
        setAttribute(node, "aria-rowindex", position + 2);
        FIGURES.forEach(([figure, write], i) => {
          const value = this.#model.rates[figure][index];
          setText(cells[i], write(value));
          if (figure === "failures") setAttribute(cells[i], "class", value > 0 ? "bad" : null);
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
    const y = position * ROW_HEIGHT;
    const room = this.#scroll.clientHeight - head - foot - ROW_HEIGHT;
    if (y < this.#scroll.scrollTop) this.#scroll.scrollTop = y;
    else if (y > this.#scroll.scrollTop + room) this.#scroll.scrollTop = y - room;
  }
}
