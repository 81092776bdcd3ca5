// The workers, and how each is.

import { byId, element, KeyedNodes, setAttribute, setText, showState } from "./dom.js";
import * as format from "./format.js";

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
