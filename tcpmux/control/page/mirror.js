// What became of the shadows of the chosen route: how many of their answers agreed, where the others
// differed, and when both sent their first bytes.

import { byId, element, KeyedNodes, setText } from "./dom.js";
import * as format from "./format.js";

// The words of `tcpmux mirror`.
const WORDS = {
  agreed: "agreed",
  content: "answered with other bytes",
  bytes: "answered with more or fewer bytes",
  end: "ended in another way",
  refused: "refused",
  reset: "reset early",
  behind: "fell behind",
  late: "late to end",
  cut: "cut off, or had nowhere to go",
  lost: "lost with their worker",
};

export function headline({ to, percent, mirrored_total: mirrored, active, agreement, skipped_total: skipped }) {
  const how = percent ? `${percent}% mirrored to ${to}` : `mirroring to ${to} is off`;
  const agreed = agreement === null ? "none compared so far" : `${format.percent(agreement)} of those compared agreed`;
  const text = `${how}: ${format.plural(mirrored, "shadow")}, ${format.count(active)} of them open, ${agreed}`;
  return skipped ? `${text}; ${format.count(skipped)} more were picked and got none` : text;
}

// Only what has happened.
export const resultTexts = (results) =>
  Object.entries(results)
    .filter(([, count]) => count)
    .map(([result, count]) => ({ result, text: `${format.count(count)} ${WORDS[result] ?? result}` }));

export function differenceText({ result, offset, within }) {
  const where = within === 1 ? `byte ${format.count(offset)}` : `bytes ${format.count(offset)} to ${format.count(offset + within - 1)}`;
  return result === "bytes" ? `${where}: one of the two had ended` : `${where}: the first that differs`;
}

function textRow() {
  const node = element("li");
  return { node, update: ({ text }) => setText(node, text) };
}

function differenceRow() {
  const time = element("time");
  const text = document.createTextNode("");
  return {
    node: element("li", {}, time, " ", text),
    update({ difference }) {
      setText(time, format.clock(difference.time));
      const wanted = differenceText(difference);
      if (text.data !== wanted) text.data = wanted;
    },
  };
}

function timesRow() {
  const name = element("th", { scope: "row" });
  const cells = Array.from({ length: 4 }, () => element("td"));
  return {
    node: element("tr", {}, name, ...cells),
    update({ whose, of }) {
      setText(name, whose);
      [format.count(of.count), ...["p50", "p95", "p99"].map((part) => format.latency(of[part] ?? NaN))].forEach(
        (text, at) => setText(cells[at], text),
      );
    },
  };
}

export class Mirror {
  #results = new KeyedNodes(byId("mirror-results"), ({ result }) => result, textRow);
  #differences = new KeyedNodes(byId("mirror-differences"), ({ key }) => key, differenceRow);
  #times = new KeyedNodes(byId("mirror-times"), ({ whose }) => whose, timesRow);

  // state: of the route, as the last sample has it; null or undefined = there is none.
  update(state) {
    byId("mirror").hidden = !state;
    if (!state) return;
    setText(byId("mirror-text"), headline(state));
    this.#results.show(resultTexts(state.results));
    byId("mirror-latency").hidden = !state.shadow_first_byte.count;
    this.#times.show([
      { whose: "Connections", of: state.first_byte },
      { whose: "Their shadows", of: state.shadow_first_byte },
    ]);
    byId("mirror-where").hidden = !state.differences.length;
    const keyed = state.differences.map((difference, at, all) => {
      const same = all.slice(at + 1).filter(({ time }) => time === difference.time).length;
      return { difference, key: `${difference.time} ${same}` };
    });
    this.#differences.show(keyed);
  }
}
