// Live connections of the chosen route: whether they are being brought to the weights, how far that
// is, and the button that begins or ends it.

import { call, routePath } from "./api.js";
import { byId, element, setText, showState } from "./dom.js";
import * as format from "./format.js";
import { appliedText } from "./weights.js";

const listed = (surplus) =>
  surplus.map(({ name, connections }) => `${name} ${format.count(connections)}`).join(", ");

const totalOf = (surplus) => surplus.reduce((all, { connections }) => all + connections, 0);

// What keeps connections from being closed now.
function keptText({ busy, unanswered }) {
  const kept = [[busy, "busy"], [unanswered, "waiting for an answer"]].filter(([number]) => number);
  return kept.map(([number, what]) => `${format.count(number)} ${what}`).join(", ");
}

// now: Unix time, s.
export function progressText(state, now) {
  const { reason, surplus, closed, reset, rate, deadline_at: until } = state;
  const left = surplus.length ? `too many at ${listed(surplus)}` : "counting";
  const kept = keptText(state);
  const parts = [reason, left + (kept && ` (${kept})`), `${format.plural(closed + reset, "connection")} closed so far`];
  const end = now < until
    ? `until ${format.clock(until)} (in ${format.duration(until - now)})`
    : `since ${format.clock(until)} those left are reset`;
  return `${parts.filter(Boolean).join("; ")}; ${end}, at most ${rate}`;
}

export function planText({ connections, surplus, closes, seconds }) {
  const many = totalOf(surplus);
  const where = surplus.length === 1 ? ` at ${surplus[0].name}` : `: ${listed(surplus)}`;
  const text = `${format.count(many)} of ${format.plural(connections, "connection")} ${many === 1 ? "is" : "are"} too many${where}`;
  const lasts = format.duration(Math.max(1, Math.ceil(seconds)));
  const pace = seconds > 0 ? ` at ${format.rate(closes / seconds)}/s` : "";
  return `${text}; about ${format.plural(closes, "close")}, about ${lasts}${pace}.`;
}

export class Convergence {
  #model;
  #dialog;
  #route = null; // name
  #state = null; // as the last sample has it; null = live connections stay where they are
  #action = null; // what the dialog is open for, if it is

  // dialog: an ActionDialog.
  constructor(model, dialog) {
    this.#model = model;
    this.#dialog = dialog;
    byId("converge").addEventListener("click", () => {
      this.#action = this.#state ? this.#stopping(this.#route) : this.#moving(this.#route);
      this.#dialog.open(this.#action);
    });
  }

  update({ name }) {
    if (name !== this.#route) this.#dialog.close(this.#action);
    this.#route = name;
    const state = this.#model.convergence(name);
    byId("convergence").hidden = state === undefined;
    if (state === undefined) return;
    this.#state = state;
    byId("convergence-state").hidden = !state;
    if (state) showState(byId("convergence-state"), state.state);
    setText(byId("convergence-text"), state ? progressText(state, this.#model.sample.time) : "None is being moved now.");
    // One button, so that the focus stays where it is when its task changes.
    setText(byId("converge"), state ? "Stop…" : "Move live connections…");
  }

  #moving(route) {
    const path = routePath(route, "convergence");
    const plan = element("p", { role: "status" }, "Counting…");
    const kept = element("p", { class: "note" });
    const how = element("p", { class: "note" });
    return {
      title: `Move live connections of ${route}?`,
      content: [plan, kept, how],
      label: "Move",
      async prepare({ signal }) {
        const found = await call(path, { method: "POST", body: { dry_run: true }, signal });
        if (!found.surplus.length) {
          const all = format.plural(found.connections, "live connection");
          setText(plan, `Nothing to do: ${found.connections ? `of ${all} none is too many` : "there are no live connections"}.`);
          return false;
        }
        setText(plan, planText(found));
        const text = keptText(found);
        setText(kept, text && `Now ${text}: these are closed later.`);
        setText(how, "Each is closed while nothing is under way on it; its client connects again, and gets a destination by the weights. It goes on in the background.");
        return true;
      },
      async perform() {
        const { surplus } = await call(path, { method: "POST", body: {} });
        return `${route}: live connections are being moved; too many: ${listed(surplus) || "none"}`;
      },
    };
  }

  #stopping(route) {
    return {
      title: `Stop moving live connections of ${route}?`,
      content: [element("p", {}, "Those that have not been closed stay where they are.")],
      label: "Stop",
      perform: async () =>
        appliedText(await call(routePath(route, "convergence/stop"), { method: "POST", body: {} })),
    };
  }
}
