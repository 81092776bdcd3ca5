// The destinations of the chosen route, with the endpoints of each below it.

import { byId, element, KeyedNodes, setAttribute, setText, showState } from "./dom.js";
import * as format from "./format.js";
import { drawnDestinations, seriesColour } from "./plots.js";
import { askForState } from "./states.js";

// Of all, {configured, effective, fresh, live}; NaN where there is none. counters: of each, or null.
function sharesOf(route, history, counters) {
  const part = (values) => {
    const total = values.reduce((all, value) => all + (value || 0), 0);
    return values.map((value) => (total > 0 ? (value || 0) / total : NaN));
  };
  const configured = part(route.destinations.map((d) => d.weight));
  const effective = part(route.destinations.map((d) => d.effective_weight));
  const fresh = part(route.destinations.map((d) => history.latest(d.name, "connections")));
  const live = part(counters.map((of) => of?.connections_active));
  return configured.map((_, i) => ({
    configured: configured[i], effective: effective[i], fresh: fresh[i], live: live[i],
  }));
}

function reasonText({ condition, condition_reason: reason, condition_since: since }, now) {
  const texts = reason ? [reason] : [];
  if (condition !== "healthy" && since) texts.push(`for ${format.duration(now - since)}`);
  return texts.join(", ");
}

function destinationNotes(destination, condition, now) {
  const notes = [reasonText(condition, now)];
  if (destination.file_weight !== destination.weight) {
    notes.push(`weight in the file: ${format.count(destination.file_weight)}`);
  }
  if (destination.slow_start_percent < 100) {
    notes.push(`slow start: ${destination.slow_start_percent} % of its share`);
  }
  if (destination.panic) notes.push("panic: all endpoints are used, whatever their health");
  return notes.filter(Boolean).join("; ");
}

function endpointNotes(endpoint, condition, trouble, now) {
  const notes = [reasonText(condition, now)];
  if (trouble?.next_try) notes.push(`tried again in ${format.duration(trouble.next_try - now)}`);
  if (endpoint.state_until) notes.push(`ready again in ${format.duration(endpoint.state_until - now)}`);
  return notes.filter(Boolean).join("; ");
}

// A cell with a button that calls `ask` with the current target, which set() changes.
function stateCell(ask) {
  let target = null;
  const button = element("button", { type: "button", class: "quiet for-operators" }, "State…");
  button.addEventListener("click", () => ask(target));
  return {
    cell: element("td", { class: "change" }, button),
    set(now) {
      target = now;
      setAttribute(button, "aria-label", `Change the state of ${now.endpoint ?? now.destination}`);
    },
  };
}

function endpointRow(ask) {
  const address = element("th", { scope: "row" });
  const state = element("td", { class: "state" });
  const turns = element("td", { class: "turns", colspan: 2 });
  const notes = element("td", { class: "notes", colspan: 6 });
  const change = stateCell(ask);
  return {
    node: element("tr", { class: "endpoint" }, address, state, turns, notes, change.cell),
    update({ endpoint, turns: all, condition, trouble, now, target }) {
      change.set(target);
      setText(address, endpoint.address);
      showState(state, condition.condition);
      setText(turns, `${format.count(endpoint.turns)} of ${format.plural(all, "turn")}`);
      setText(notes, endpointNotes(endpoint, condition, trouble, now));
    },
  };
}

// A share as a text, and as a bar with a mark where the weights would have it.
function shareCell(label) {
  const text = element("span");
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  return {
    cell: element("td", { "data-label": label, class: "share" }, text, bar),
    show(shown, share, target) {
      setText(text, shown);
      bar.style.setProperty("--actual", share || 0);
      bar.style.setProperty("--target", target || 0);
    },
  };
}

// position: among those that are drawn; -1 = it is not.
function destinationGroup(position, ask) {
  const cell = (label, ...children) => element("td", { "data-label": label }, ...children);
  const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
  if (position >= 0) swatch.style.borderTopColor = `var(--${seriesColour(position)})`;
  const label = element("span");
  const name = element("th", { scope: "rowgroup" }, swatch, label);
  const state = element("td", { class: "state" });
  const [configured, effective] = [{}, { class: "note" }].map((a) => element("span", a));
  const [fresh, live] = [shareCell("New (10 s)"), shareCell("Live")];
  const [weight, connections, latency, failures, bytes] = [
    "Weight", "Conn/s", "Connect p50 / p99", "Fail/s", "Bytes/s",
  ].map((of) => cell(of));
  const change = stateCell(ask);
  const notes = element("td", { class: "notes", colspan: 11 });
  const notesRow = element("tr", { class: "destination-notes" }, notes);
  const node = element(
    "tbody",
    {},
    element("tr", { class: "destination" }, name, state, weight,
      cell("Target", configured, effective),
      fresh.cell, live.cell, connections, latency, failures, bytes, change.cell),
    notesRow,
  );
  const endpoints = element("tbody", { class: "endpoints" });
  const rows = new KeyedNodes(endpoints, ({ endpoint }) => endpoint.address, () => endpointRow(ask));
  return {
    nodes: [node, endpoints],
    update({ destination, condition, shares, counters, latest, endpointsShown, now, target }) {
      change.set(target);
      setText(label, destination.name);
      showState(state, condition.condition);
      setText(weight, format.count(destination.weight));
      setText(configured, format.percent(shares.configured));
      const differs = Math.abs(shares.configured - shares.effective) > 0.0005;
      setText(effective, differs ? `now ${format.percent(shares.effective)}` : "");
      fresh.show(format.percent(shares.fresh), shares.fresh, shares.effective);
      const open = format.count(counters?.connections_active);
      const part = Number.isNaN(shares.live) ? "" : ` (${format.percent(shares.live)})`;
      live.show(open + part, shares.live, shares.effective);
      setText(connections, format.rate(latest("connections")));
      setText(latency, `${format.latency(latest("connect_p50_seconds"))} / ${format.latency(latest("connect_p99_seconds"))}`);
      const failing = latest("connect_failures");
      setText(failures, format.rate(failing));
      setAttribute(failures, "class", failing > 0 ? "bad" : null);
      setAttribute(failures, "title", `${format.count(counters?.connect_failures_total)} since the start`);
      setText(bytes, format.byteRate(latest("bytes_in") + latest("bytes_out")));
      const text = destinationNotes(destination, condition, now);
      setText(notes, text);
      notesRow.hidden = !text;
      rows.show(endpointsShown);
    },
  };
}

export class Destinations {
  #model;
  #table = byId("destination-table");
  #groups = new Map();
  #shown = "";

  #ask;

  constructor(model, dialog) {
    this.#model = model;
    this.#ask = (target) => askForState(dialog, target);
  }

  update(route) {
    const drawn = drawnDestinations(route);
    const shown = JSON.stringify([route.name, route.destinations.map((d) => d.name), drawn]);
    if (shown !== this.#shown) {
      for (const group of this.#groups.values()) group.nodes.forEach((node) => node.remove());
      this.#groups = new Map(
        route.destinations.map(({ name }) => [name, destinationGroup(drawn.indexOf(name), this.#ask)]),
      );
      this.#table.append(...[...this.#groups.values()].flatMap((group) => group.nodes));
      this.#shown = shown;
    }
    const { history } = this.#model;
    const now = this.#model.sample?.time ?? this.#model.table.time;
    const all = route.destinations.map((_, position) => this.#model.counters(route.name, position));
    const shares = sharesOf(route, history, all);
    route.destinations.forEach((destination, position) => {
      const { name, state } = destination;
      const counters = all[position];
      this.#groups.get(name).update({
        destination,
        now,
        counters,
        target: { route: route.name, destination: name, state, open: counters?.connections_active },
        condition: this.#model.condition(route.name, name),
        shares: shares[position],
        latest: (column) => history.latest(name, column),
        endpointsShown: this.#endpoints(route.name, destination, now),
      });
    });
  }

  // Brings a destination into view, and marks it for a moment.
  reveal(name) {
    const [node] = this.#groups.get(name)?.nodes ?? [];
    if (!node) return;
    node.scrollIntoView({ block: "center" });
    node.classList.remove("revealed");
    requestAnimationFrame(() => node.classList.add("revealed"));
  }

  #endpoints(route, destination, now) {
    // Names that can't be looked up stand where their addresses would.
    const names = this.#model.unresolved(route, destination.name)
      .map(({ address }) => ({ address, turns: 0 }));
    const turns = destination.endpoints.reduce((all, endpoint) => all + endpoint.turns, 0);
    return [...destination.endpoints, ...names].map((endpoint) => ({
      endpoint,
      turns,
      now,
      target: { route, destination: destination.name, endpoint: endpoint.address, state: endpoint.state },
      condition: this.#model.condition(route, destination.name, endpoint.address),
      trouble: this.#model.trouble(route, destination.name, endpoint.address),
    }));
  }
}
