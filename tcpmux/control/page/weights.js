// The weights of the chosen route: what the user would have, what that means, and the change.
//
// What the user has touched (a draft) is the user's until it is applied or discarded, whatever
// happens elsewhere; everything else follows the table.

import { listOf } from "./action_dialog.js";
import { call, routePath } from "./api.js";
import { byId, element, KeyedNodes, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";

const LARGEST_WEIGHT = 1_000_000;

// Shares as they would be with other weights. What takes from a weight now (a drain, an endpoint that
// is down, slow start) would take from another one as well.
function sharesWith(destinations, weightOf) {
  const weights = destinations.map((d) => weightOf(d) * (d.weight ? d.effective_weight / d.weight : 1));
  const total = weights.reduce((all, weight) => all + weight, 0);
  return new Map(destinations.map((d, i) => [d.name, total ? weights[i] / total : NaN]));
}

function sharesNow(destinations) {
  const total = destinations.reduce((all, d) => all + d.effective_weight, 0);
  return new Map(destinations.map((d) => [d.name, total ? d.effective_weight / total : NaN]));
}

// What the drafts come to: a line for each destination, and what is to be sent.
function planOf(route, drafts) {
  const draftOf = (d) => drafts.get(d.name) ?? d.weight;
  const now = sharesNow(route.destinations);
  const then = sharesWith(route.destinations, draftOf);
  const lines = route.destinations.map((d) => {
    const wanted = draftOf(d);
    const shares = `(${format.percent(now.get(d.name))} → ${format.percent(then.get(d.name))})`;
    const valid = !Number.isNaN(wanted);
    const changed = valid && wanted !== d.weight;
    const moved = valid && now.get(d.name) !== then.get(d.name);
    let figures = format.count(d.weight);
    if (changed) figures += ` → ${format.count(wanted)} ${shares}`;
    else if (moved && !Number.isNaN(then.get(d.name))) figures += ` ${shares}`;
    else figures += ` (${format.percent(now.get(d.name))})`;
    return { destination: d, wanted, valid, changed, moved, figures, text: `${d.name} ${figures}` };
  });
  return {
    lines,
    valid: lines.every((line) => line.valid),
    changed: lines.filter((line) => line.changed),
    nobody: lines.every((line) => line.wanted === 0),
  };
}

// What an answer to a change says.
export function appliedText({ changes, generation, workers }) {
  const reached = workers.filter((w) => w.generation >= generation).length;
  const what = changes.join("; ") || "Nothing changed: it is like that already";
  return `${what}: generation ${generation} in ${reached} of ${format.plural(workers.length, "worker")}`;
}

export class Weights {
  #route = null;
  #drafts = new Map(); // by route, then by destination; NaN for what is no weight
  #rows = null;
  #rowsOf = null;
  #greatest = 0; // what the sliders reach to; never less while they may be being dragged
  #dialog;
  #action = null; // what the dialog is open for, if it is
  #shown = ""; // what it lists

  // dialog: an ActionDialog.
  constructor(dialog) {
    this.#dialog = dialog;
    byId("weight-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!byId("apply-weights").disabled) this.#ask();
    });
    byId("discard-weights").addEventListener("click", () => this.#discard());
    byId("undo-weights").addEventListener("click", () => this.#askToUndo());
    byId("save-weights").addEventListener("click", () => this.#showHowToSave());
  }

  // With each table, and when another route is chosen.
  update(route) {
    if (this.#rowsOf !== route.name) {
      byId("weight-rows").replaceChildren();
      this.#rows = new KeyedNodes(
        byId("weight-rows"), ({ line }) => line.destination.name, ({ line }) => this.#row(line.destination.name),
      );
      this.#rowsOf = route.name;
      this.#greatest = 100;
    }
    if (this.#route?.name !== route.name) this.#dialog.close(this.#action);
    this.#route = route;
    const drafts = this.#draftsOfRoute();
    const weights = new Map(route.destinations.map((d) => [d.name, d.weight]));
    for (const [name, wanted] of drafts) {
      if (!weights.has(name) || weights.get(name) === wanted) drafts.delete(name);
    }
    this.#show();
    if (this.#dialog.isOpenFor(this.#action)) this.#relist();
    this.#showUnsaved();
  }

  #draftsOfRoute() {
    const { name } = this.#route;
    if (!this.#drafts.has(name)) this.#drafts.set(name, new Map());
    return this.#drafts.get(name);
  }

  #show() {
    const plan = planOf(this.#route, this.#draftsOfRoute());
    const values = plan.lines.flatMap((line) => [line.destination.weight, line.wanted || 0]);
    this.#greatest = Math.max(this.#greatest, ...values);
    this.#rows.show(plan.lines.map((line) => ({ line, greatest: this.#greatest })));
    const touched = this.#draftsOfRoute().size > 0;
    byId("apply-weights").disabled = !plan.valid || plan.changed.length === 0;
    byId("discard-weights").disabled = !touched;
    const warning = !plan.valid
      ? `A weight is a whole number from 0 to ${format.count(LARGEST_WEIGHT)}.`
      : plan.changed.length && plan.nobody
        ? "With all weights 0 no destination gets connections."
        : "";
    setText(byId("weights-warning"), warning);
    byId("weights-warning").hidden = !warning;
  }

  #row(name) {
    const slider = element("input", {
      type: "range", min: 0, step: 1, id: `weight-range-${name}`, "aria-label": `${name}: weight, slider`,
    });
    const number = element("input", {
      type: "number", min: 0, max: LARGEST_WEIGHT, step: 1, required: true, inputmode: "numeric",
      id: `weight-number-${name}`, "aria-describedby": `weight-preview-${name}`,
    });
    const preview = element("output", {
      id: `weight-preview-${name}`, for: `weight-range-${name} weight-number-${name}`, "aria-live": "off",
    });
    const label = element("label", { for: number.id }, name);
    const node = element(
      "div", { class: "weight-row", "data-destination": name }, label, preview, slider, number,
    );
    slider.addEventListener("input", () => this.#touch(name, Number(slider.value)));
    number.addEventListener("input", () =>
      this.#touch(name, number.checkValidity() ? Number(number.value) : NaN),
    );
    return {
      node,
      update({ line, greatest }) {
        setAttribute(slider, "max", greatest);
        // Of a range in the hundred thousands nobody wants to step by one.
        setAttribute(slider, "step", Math.max(1, 10 ** Math.floor(Math.log10(greatest)) / 100));
        if (line.valid) {
          slider.value = line.wanted;
          // Also not while it is being typed: 050 is 50 already, but not to be cut short.
          if (Number(number.value) !== line.wanted || !number.value) number.value = line.wanted;
        }
        setAttribute(number, "aria-invalid", !line.valid && "true");
        setAttribute(slider, "aria-valuetext", line.text);
        setAttribute(node, "data-changed", line.changed);
        setText(preview, line.valid ? line.figures : "not a weight");
      },
    };
  }

  #touch(name, wanted) {
    const { weight } = this.#route.destinations.find((d) => d.name === name);
    if (wanted === weight) this.#draftsOfRoute().delete(name);
    else this.#draftsOfRoute().set(name, wanted);
    this.#show();
  }

  #discard() {
    this.#draftsOfRoute().clear();
    this.#show();
    // The button that had the focus cannot keep it now that it is disabled.
    byId("weight-rows").querySelector("input")?.focus();
  }

  #showUnsaved() {
    const others = this.#route.destinations.filter((d) => d.weight !== d.file_weight);
    const text = others.length
      ? `Until the next reload, which sets ${others.map((d) => `${d.name} ${format.count(d.file_weight)}`).join(", ")} as in the file.`
      : "As in the file.";
    setText(byId("unsaved-weights"), text);
    byId("save-weights").hidden = others.length === 0;
  }

  // What the dialog says, of the drafts as they are now.
  #content(meanwhile = "") {
    const plan = planOf(this.#route, this.#draftsOfRoute());
    const others = plan.lines.filter((line) => !line.changed && line.moved).map((line) => line.text);
    const consequences = plan.nobody
      ? byId("weights-warning").textContent
      : others.length ? `Weight not changed, but share: ${others.join("; ")}.` : "";
    this.#shown = JSON.stringify(plan.lines.map((line) => line.text));
    return [
      listOf(plan.changed.map((line) => line.text)),
      element("p", { class: "note" }, consequences),
      element("p", { class: "warning", role: "status" }, meanwhile),
    ];
  }

  #ask() {
    this.#action = {
      title: `Change weights of ${this.#route.name}?`,
      content: this.#content(),
      label: "Change",
      perform: (options) => this.#apply(options),
    };
    this.#dialog.open(this.#action);
  }

  // The list is what will be sent, also if somebody else has changed weights in the meantime.
  #relist() {
    const before = this.#shown;
    const content = this.#content("The weights have been changed meanwhile. This is the new list.");
    if (!planOf(this.#route, this.#draftsOfRoute()).changed.length) this.#dialog.close(this.#action);
    else if (this.#shown !== before) this.#dialog.update(this.#action, content);
  }

  // Drafts that were applied end with the table that comes with the change.
  async #apply({ force }) {
    const { changed } = planOf(this.#route, this.#draftsOfRoute());
    const body = Object.fromEntries(changed.map((l) => [l.destination.name, l.wanted]));
    return this.#send("PUT", "weights", body, force);
  }

  #askToUndo() {
    const { name } = this.#route;
    this.#dialog.open({
      title: `Undo the last change of ${name}'s weights?`,
      content: [element("p", {}, "The weights become what they were before they were last changed. Open connections stay where they are, unless the file has them converge after a rollback.")],
      label: "Undo",
      perform: ({ force }) => this.#send("POST", "undo", {}, force),
    });
  }

  async #send(method, action, body, force) {
    const path = routePath(this.#route.name, `${action}${force ? "?force=true" : ""}`);
    return appliedText(await call(path, { method, body }));
  }

  // The file belongs to whoever may write it, which an instance need not be able to.
  #showHowToSave() {
    const { name, destinations } = this.#route;
    const weights = destinations.map((d) => `${d.name}=${d.weight}`).join(" ");
    const command = `tcpmux weight ${name} ${weights} --save`;
    this.#dialog.open({
      title: `Save the weights of ${name}`,
      content: [
        element("p", {}, "The page can't save them itself: the process that serves it may not write the configuration file. Run this command on the instance's host, as a user who may. It changes nothing else in the file:"),
        element("pre", { tabindex: 0 }, command),
      ],
      label: "Copy the command",
      async perform() {
        await navigator.clipboard.writeText(command);
        return "Command copied";
      },
    });
  }
}
