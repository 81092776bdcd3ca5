// What happens in the instance: the workers' health and the list of events.

import { byId, element, KeyedNodes, setAttribute, setText, showState } from "./dom.js";
import * as format from "./format.js";

const EVENTS_KEPT = 200;

function workerRow() {
  const id = element("th", { scope: "row" });
  const [pid, state, generation, connections, starts, descriptors] = Array.from({ length: 6 }, () =>
    element("td"),
  );
  state.className = "state";
  return {
    node: element("tr", {}, id, pid, state, generation, connections, starts, descriptors),
    update({ worker, newest }) {
      const behind = worker.generation < newest;
      setText(id, String(worker.id));
      setText(pid, worker.pid ? String(worker.pid) : "not running");
      showState(state, worker.state);
      setText(generation, `${worker.generation}${behind ? " (behind)" : ""}`);
      setAttribute(generation, "class", behind ? "bad" : null);
      setText(
        connections,
        `${format.count(worker.connections)} of ${format.count(worker.connections_limit)}`,
      );
      setText(starts, format.count(worker.starts));
      setText(descriptors, format.count(worker.fds));
    },
  };
}

export class Workers {
  #rows = new KeyedNodes(byId("worker-rows"), ({ worker }) => worker.id, workerRow);

  update(sample) {
    this.#rows.show(sample.workers.map((worker) => ({ worker, newest: sample.generation })));
  }
}

function eventItem(event) {
  const when = new Date(event.time * 1000);
  const time = element(
    "time",
    { datetime: when.toISOString(), title: when.toLocaleString("en-GB") },
    format.clock(event.time),
  );
  const node = element(
    "li",
    {},
    element("span", { class: "event-head" }, time, " ",
      element("span", { class: "kind", "data-kind": event.kind }, event.kind)),
    element("span", { class: "event-text" }, event.text),
  );
  if (event.by) node.append(element("span", { class: "note" }, ` by ${event.by}`));
  return { node, update() {} };
}

export class Events {
  #known = new Map();
  #rows = new KeyedNodes(byId("event-rows"), (event) => `${event.seq} ${event.time}`, eventItem);

  // Another instance counts its events from the start.
  clear() {
    this.#known.clear();
  }

  add(events) {
    for (const event of events) this.#known.set(event.seq, event);
    const newestFirst = [...this.#known.values()].sort((a, b) => b.seq - a.seq);
    const kept = newestFirst.slice(0, EVENTS_KEPT);
    this.#known = new Map(kept.map((event) => [event.seq, event]));
    this.#rows.show(kept);
  }
}
