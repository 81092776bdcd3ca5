// The rollout of the chosen route: its steps, both versions side by side, what decides, and what has
// happened; and the buttons that change it. The last one stays in sight once it is over.

import { call, routePath } from "./api.js";
import { byId, element, KeyedNodes, setAttribute, setText, showState } from "./dom.js";
import * as format from "./format.js";

const EVERY = 1000; // ms, while one is under way

// Of so many connections; none yet: nothing is known.
const shareText = (part, of) => `${format.count(part)} (${of ? format.percent(part / of) : "–"})`;

const countsOf = ({ connections, connects, connect_failures: failures, resets }) => [
  format.count(connections),
  shareText(failures, connects + failures),
  shareText(resets, connections),
];

// now: Unix time, s.
export function nowText(rollout, now) {
  const { to, step, steps, reason, waits, step_seconds: lasts } = rollout;
  const where = step ? `step ${step} of ${steps.length}, ${steps[step - 1]}, for ${format.duration(lasts)}` : "before the first step";
  const began = `began ${format.clock(rollout.began_at)} (${format.duration(now - rollout.began_at)} ago)`;
  return [`to ${to}: ${where}`, reason || waits, began].filter(Boolean).join("; ");
}

export function endText({ to, end, ended, text, by }) {
  return `to ${to}: ${end} at ${format.clock(ended)}${by ? ` by ${by}` : ""}${text ? `: ${text}` : ""}`;
}

// done, current or ahead. Of one that is over: how far it came.
export function stepMarks({ step, steps }) {
  return steps.map((share, at) => ({
    share,
    at,
    mark: at + 1 < step ? "done" : at + 1 === step ? "current" : "ahead",
  }));
}

const ACTIONS = {
  pause: { title: "Pause", text: "The weights stay as they are until it is resumed." },
  resume: { title: "Resume", text: "The present step begins anew." },
  promote: { title: "Promote", text: "The next step begins at once, whatever has been seen in this one." },
  abort: { title: "Abort", text: "The others get the connections that they had before it began." },
};

export class RolloutView {
  #model;
  #dialog;
  #route = null; // name
  #status = null; // as control has told it last
  #timer = null;
  #action = null; // what the dialog is open for, if it is
  #steps = new KeyedNodes(byId("rollout-steps"), ({ at }) => at, createStep);
  #versions = new KeyedNodes(byId("rollout-versions"), ({ name }) => name, createVersion);
  #findings = new KeyedNodes(byId("rollout-findings"), ({ measure }) => measure, createFinding);
  #verdicts = new KeyedNodes(byId("rollout-verdicts"), ({ key }) => key, createVerdict);

  // dialog: an ActionDialog.
  constructor(model, dialog) {
    this.#model = model;
    this.#dialog = dialog;
    for (const name of Object.keys(ACTIONS)) {
      byId(`rollout-${name}`).addEventListener("click", () => {
        this.#action = this.#changing(this.#route, name);
        this.#dialog.open(this.#action);
      });
    }
  }

  setRoute({ name }) {
    if (name !== this.#route) {
      this.#dialog.close(this.#action);
      this.#route = name;
      this.#status = null;
      this.#show();
    }
    this.load();
  }

  // Now, and again and again while one is under way and somebody looks.
  async load() {
    clearTimeout(this.#timer);
    const route = this.#route;
    if (route === null) return;
    let failed = "";
    try {
      const { rollouts } = await call(`/v1/rollouts?route=${encodeURIComponent(route)}`);
      if (route !== this.#route) return;
      this.#status = rollouts.find((one) => one.route === route) ?? null;
    } catch (error) {
      if (route !== this.#route) return;
      failed = this.#status ? `The rollout's state can't be read, what is shown is old: ${error.message}.` : "";
    }
    setText(byId("rollout-error"), failed);
    byId("rollout-error").hidden = !failed;
    this.#show();
    clearTimeout(this.#timer);
    if (this.#status?.rollout) this.#timer = setTimeout(() => this.#again(), EVERY);
  }

  #again() {
    if (!document.hidden) this.load();
    else document.addEventListener("visibilitychange", () => this.load(), { once: true });
  }

  #show() {
    const now = this.#status?.rollout ?? null;
    const last = this.#status?.history.at(-1) ?? null;
    byId("rollout").hidden = !now && !last;
    if (!now && !last) return;
    if (now) this.#dialog.update(this.#action, this.#content(this.#action?.name));
    else this.#dialog.close(this.#action);
    const state = now ? now.state : last.end.replaceAll(" ", "-");
    showState(byId("rollout-state"), now ? now.state : last.end);
    setAttribute(byId("rollout-state"), "data-state", state);
    const time = this.#model.sample?.time ?? Date.now() / 1000;
    setText(byId("rollout-text"), now ? nowText(now, time) : endText(last));
    byId("rollout-pause").hidden = now?.state !== "running";
    byId("rollout-resume").hidden = now?.state !== "paused";
    byId("rollout-promote").hidden = byId("rollout-abort").hidden = !now;
    byId("rollout-numbers").hidden = !now;
    this.#steps.show(now ? stepMarks(now) : []);
    this.#versions.show(now?.versions ?? []);
    this.#findings.show(now?.findings ?? []);
    const verdicts = (now ?? last).verdicts.map((one) => ({ ...one, key: `${one.time} ${one.text}` }));
    this.#verdicts.show(verdicts.reverse());
    const hooks = (this.#status.hooks ?? []).map(({ hook, text }) => `${hook}: ${text}`);
    const unsaved = this.#status.unsaved ?? ""; // an older build does not say
    const troubles = [
      hooks.length ? `Hooks that fail: ${hooks.join("; ")}.` : "",
      unsaved ? `Its state can't be saved: ${unsaved}.` : "",
    ].filter(Boolean);
    setText(byId("rollout-hooks"), troubles.join(" "));
    byId("rollout-hooks").hidden = !troubles.length;
  }

  #content(name) {
    const now = this.#status?.rollout;
    const text = now ? nowText(now, this.#model.sample?.time ?? Date.now() / 1000) : "";
    return [element("p", {}, ACTIONS[name]?.text ?? ""), element("p", { class: "note" }, text)];
  }

  #changing(route, name) {
    const { title } = ACTIONS[name];
    return {
      name,
      title: `${title} the rollout of ${route}?`,
      content: this.#content(name),
      label: title,
      dangerous: name === "abort",
      perform: async () => {
        const { rollout, history } = await call(routePath(route, "rollout/change"), { method: "POST", body: { action: name } });
        this.load();
        return `${route}: rollout ${rollout ? nowText(rollout, Date.now() / 1000) : endText(history.at(-1))}`;
      },
    };
  }
}

function createStep() {
  const node = element("li");
  return {
    node,
    update({ share, mark }) {
      setText(node, share);
      setAttribute(node, "data-mark", mark);
      setAttribute(node, "aria-current", mark === "current" && "step");
    },
  };
}

function createVersion({ name }) {
  const cells = ["Connections", "Failed connects", "Resets"].map((label) => element("td", { "data-label": label }));
  return {
    node: element("tr", {}, element("th", { scope: "row" }, name), ...cells),
    update(version) {
      countsOf(version).forEach((text, at) => setText(cells[at], text));
    },
  };
}

function createFinding() {
  const node = element("li");
  return { node, update: ({ text }) => setText(node, text) };
}

function createVerdict() {
  const time = element("time");
  const text = element("span");
  return {
    node: element("li", {}, time, " ", text),
    update(verdict) {
      setText(time, format.clock(verdict.time));
      setAttribute(time, "datetime", new Date(verdict.time * 1000).toISOString());
      setText(text, verdict.text);
    },
  };
}
