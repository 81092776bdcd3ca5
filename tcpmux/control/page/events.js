// What has happened in the instance, the newest first, under the day on which it was.

import { byId, element, KeyedNodes, setText } from "./dom.js";
import * as format from "./format.js";
import { colourOf, groupOf } from "./kinds.js";

const KEPT = 1000; // as control keeps them
const SHOWN = 200;

function dayItem(day) {
  return { node: element("li", { class: "day" }, day), update() {} };
}

function eventItem(event) {
  const when = new Date(event.time * 1000);
  const time = element("time", { datetime: when.toISOString() }, format.clock(event.time));
  const kind = element("span", { class: "kind", "data-colour": colourOf(event) }, event.kind);
  const node = element(
    "li", {}, element("span", { class: "event-head" }, time, " ", kind),
    element("span", { class: "event-text" }, event.text),
  );
  if (event.by) node.append(element("span", { class: "note" }, ` by ${event.by}`));
  return { node, update() {} };
}

export class Events {
  #events = new Map(); // by number
  #rows = new KeyedNodes(
    byId("event-rows"),
    ({ day, event }) => (event ? `${event.seq} ${event.time}` : day),
    ({ day, event }) => (event ? eventItem(event) : dayItem(day)),
  );

  constructor() {
    byId("events-filter").addEventListener("submit", (event) => event.preventDefault());
    byId("events-filter").addEventListener("input", () => this.#show());
  }

  // Another instance counts its events from the start.
  clear() {
    this.#events.clear();
  }

  add(events) {
    for (const event of events) this.#events.set(event.seq, event);
    const newestFirst = [...this.#events.values()].sort((a, b) => b.seq - a.seq);
    this.#events = new Map(newestFirst.slice(0, KEPT).map((event) => [event.seq, event]));
    this.#show();
  }

  #show() {
    const { group, text } = byId("events-filter").elements;
    const words = text.value.trim().toLowerCase();
    const wanted = [...this.#events.values()].filter(
      (event) =>
        (!group.value || groupOf(event) === group.value) &&
        (!words || `${event.kind} ${event.text} ${event.by}`.toLowerCase().includes(words)),
    );
    const items = wanted.slice(0, SHOWN).flatMap((event, i) => {
      const day = format.day(event.time);
      const isNew = i === 0 || day !== format.day(wanted[i - 1].time);
      return isNew ? [{ day }, { event }] : [{ event }];
    });
    this.#rows.show(items);
    byId("events-empty").hidden = wanted.length > 0;
    setText(
      byId("events-empty"),
      this.#events.size
        ? "No event matches the filter."
        : "Nothing yet. Reloads, changes of weights and failures will be listed here.",
    );
    setText(byId("event-count"), wanted.length > SHOWN ? `the last ${SHOWN} of ${format.count(wanted.length)}` : "");
  }
}
