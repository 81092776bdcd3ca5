// The rules of the chosen route, in their order, and how many connections have met each.

import { byId, element, KeyedNodes, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";

function goesTo({ reject, available, destinations }) {
  if (reject) return "rejected";
  if (!available) return "nobody is available";
  const whole = destinations.reduce((all, d) => all + d.effective_weight, 0);
  const shares = destinations.map((d) => `${d.name} ${format.percent(d.effective_weight / whole)}`);
  const changed = destinations.some((d) => d.weight !== d.file_weight);
  return shares.join(", ") + (changed ? " (not as in the file)" : "");
}

function ruleRow() {
  const name = element("th", { scope: "row" });
  const [conditions, to, active, total] = Array.from({ length: 4 }, () => element("td"));
  return {
    node: element("tr", {}, name, conditions, to, active, total),
    update({ rule, counts }) {
      setText(name, rule.name);
      setText(conditions, rule.conditions);
      setText(to, goesTo(rule));
      setAttribute(to, "class", rule.available ? null : "bad");
      setText(active, format.count(counts?.[0]));
      setText(total, format.count(counts?.[1]));
    },
  };
}

export class Rules {
  #rows = new KeyedNodes(byId("rule-rows"), ({ rule }) => rule.name, ruleRow);

  // counts: {rule: [open, all]} of the route, as the last sample has it.
  update(route, counts = {}) {
    byId("rules").hidden = route.rules.length === 0;
    this.#rows.show(route.rules.map((rule) => ({ rule, counts: counts[rule.name] })));
  }
}
