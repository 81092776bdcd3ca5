// What is wrong now, worst first, at the top of the page.

import { byId, element, KeyedNodes, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { hashOf } from "./location.js";

const SHOWN = 3; // until somebody asks for all

function targetOf(problem) {
  return [problem.route, problem.destination, problem.endpoint].filter(Boolean).join(" / ");
}

function headline(problems, total) {
  if (!total) return "No problems";
  const harmful = problems.filter((p) => p.severity === "error").length;
  if (!harmful) return `${format.plural(total, "problem")}: no client loses a connection`;
  if (total === 1) return "1 problem: clients lose connections";
  const which = harmful === total ? "all of them cost" : `${harmful} of them ${harmful === 1 ? "costs" : "cost"}`;
  return `${format.plural(total, "problem")}, ${which} clients connections`;
}

function problemItem(first) {
  const target = first.route === null
    ? element("strong", {}, "Instance")
    : element("a", { href: hashOf(first.route, first.destination) }, targetOf(first));
  const [severity, text, since, action] = ["severity", "", "note", "action"].map((name) =>
    element("span", { class: name || null }),
  );
  const node = element(
    "li", {}, severity, element("span", { class: "problem-text" }, target, " ", text, " ", since), action,
  );
  return {
    node,
    update({ problem, now }) {
      setAttribute(node, "data-severity", problem.severity);
      setText(severity, problem.severity);
      setText(text, problem.text);
      setText(since, problem.since ? `for ${format.duration(now - problem.since)}` : "");
      setText(action, problem.action);
    },
  };
}

export class Problems {
  #rows = new KeyedNodes(
    byId("problem-rows"),
    ({ problem: p }) => JSON.stringify([p.route, p.destination, p.endpoint, p.text]),
    ({ problem }) => problemItem(problem),
  );
  #all = false;
  #model;

  constructor(model) {
    this.#model = model;
    byId("all-problems").addEventListener("click", () => {
      this.#all = !this.#all;
      this.update();
    });
  }

  update() {
    const { problems, problemsTotal: total, sample } = this.#model;
    const worst = problems[0]?.severity ?? "none";
    setAttribute(byId("problems"), "data-worst", worst);
    setText(byId("problems-title"), headline(problems, total));
    const shown = this.#all ? problems : problems.slice(0, SHOWN);
    this.#rows.show(shown.map((problem) => ({ problem, now: sample.time })));
    byId("all-problems").hidden = total <= SHOWN;
    setText(byId("all-problems"), this.#all ? "Show fewer" : `Show all ${format.count(problems.length)}`);
    setAttribute(byId("all-problems"), "aria-expanded", String(this.#all));
  }
}
