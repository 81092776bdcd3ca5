// The table of open connections, asked for again every two seconds while somebody can see it.

import { listOf } from "./action_dialog.js";
import { call } from "./api.js";
import { byId, element, KeyedNodes, setAttribute, setText, sortableHeaders } from "./dom.js";
import * as format from "./format.js";

const REFRESH = 2000; // ms
const SETTLE = 300; // ms after the last key, before a filter is used
const LIMIT = 200;
const MOST_KILLED = 20_000; // in one request
const LISTED = 5; // of those to kill

function describe(connection) {
  const to = connection.endpoint ? ` to ${connection.endpoint}` : "";
  const via = connection.peer ? ` via ${connection.peer}` : "";
  const by = [connection.route, connection.destination].filter(Boolean).join(", ");
  return `${connection.client}${via}${to} (${by}), open for ${format.age(connection.age)}`;
}

export class Connections {
  #model;
  #dialog; // an ActionDialog
  #form = byId("connections-filter");
  #rows;
  #sort = { key: "age", descending: true };
  #timer = null;
  #request = null;
  #paused = false;

  constructor(model, dialog) {
    this.#model = model;
    this.#dialog = dialog;
    this.#rows = new KeyedNodes(byId("connection-rows"), (c) => c.id, (c) => this.#row(c));
    sortableHeaders(byId("connection-table"), this.#sort, () => this.refresh());
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("input", () => this.#schedule(SETTLE));
    byId("filter-scope").addEventListener("change", () => this.#showDestinations());
    byId("connections-pause").addEventListener("click", () => this.#pause());
    document.addEventListener("visibilitychange", () => this.refresh());
    byId("kill-matching").addEventListener("click", () => this.#askForMatching());
  }

  // Another route has been chosen, or the destinations are others.
  setRoute() {
    this.#showDestinations();
    this.refresh();
  }

  // At once, and then every two seconds.
  async refresh() {
    clearTimeout(this.#timer);
    this.#request?.abort();
    if (document.hidden || this.#paused || !this.#model.table) return;
    const request = (this.#request = new AbortController());
    try {
      const answer = await call(`/v1/connections?${this.#query(LIMIT)}`, { signal: request.signal });
      this.#show(answer);
      this.#showError("");
    } catch (error) {
      if (request.signal.aborted) return;
      this.#showError(`Not refreshed: ${error.message}`);
    }
    if (!request.signal.aborted) this.#schedule(REFRESH);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), delay);
  }

  #query(limit) {
    const fields = this.#form.elements;
    const query = new URLSearchParams({
      sort: `${this.#sort.descending ? "" : "-"}${this.#sort.key}`,
      limit,
    });
    if (fields.scope.value === "chosen" && this.#model.chosen) query.set("route", this.#model.chosen);
    for (const name of ["destination", "client", "older", "idle"]) {
      const value = fields[name].value.trim();
      if (value) query.set(name, value);
    }
    return query;
  }

  // Of all routes there may be thousands, too many to choose from.
  #showDestinations() {
    const select = byId("filter-destination");
    const ofChosen = byId("filter-scope").value === "chosen";
    const route = this.#model.route(this.#model.chosen);
    const names = ofChosen && route ? route.destinations.map((d) => d.name) : [];
    const before = select.value;
    select.replaceChildren(new Option("any", ""), ...names.map((name) => new Option(name)));
    select.value = names.includes(before) ? before : "";
    select.disabled = names.length === 0;
  }

  #show(answer) {
    const shown = answer.connections.length;
    const all = format.plural(answer.total, "connection");
    setText(byId("connections-count"), shown < answer.total ? `${format.count(shown)} of ${all}` : all);
    this.#rows.show(answer.connections);
    byId("kill-matching").hidden = shown === 0;
    setText(byId("kill-matching"), `Kill ${answer.total === 1 ? "this one" : `these ${format.count(answer.total)}`}…`);
    byId("connections-empty").hidden = shown > 0;
    setText(byId("connections-empty"), this.#emptyText());
  }

  #emptyText() {
    const route = this.#model.route(this.#model.chosen);
    const fields = this.#form.elements;
    if (["destination", "client", "older", "idle"].some((name) => fields[name].value.trim())) {
      return "No open connection matches the filter.";
    }
    return fields.scope.value === "chosen" && route
      ? `No open connections. Clients of this route connect to ${route.listen.join(" or ")}.`
      : "No open connections.";
  }

  #showError(text) {
    setText(byId("connections-error"), text);
    byId("connections-error").hidden = !text;
  }

  #pause() {
    this.#paused = !this.#paused;
    setAttribute(byId("connections-pause"), "aria-pressed", String(this.#paused));
    this.refresh();
  }

  #row(first) {
    let connection = first;
    const client = element("th", { scope: "row" });
    const [route, destination, endpoint, state, age, idle, received, sent, worker] = Array.from(
      { length: 9 }, () => element("td"),
    );
    const kill = element("button", { type: "button", class: "kill quiet for-operators" }, "Kill");
    kill.addEventListener("click", () => this.#ask(connection));
    const node = element(
      "tr", { "data-id": first.id },
      client, route, destination, endpoint, state, age, idle, received, sent, worker,
      element("td", {}, kill),
    );
    return {
      node,
      update(now) {
        connection = now;
        setText(client, now.peer ? `${now.client} via ${now.peer}` : now.client);
        setText(route, now.route);
        setText(destination, now.destination || "–");
        setAttribute(destination, "title", now.rule ? `by the rule ${now.rule}` : null);
        setText(endpoint, now.endpoint || "–");
        setText(state, now.attempts > 1 ? `${now.state} (attempt ${now.attempts})` : now.state);
        setText(age, format.age(now.age));
        setText(idle, format.age(now.idle));
        setText(received, format.bytes(now.bytes_in));
        setText(sent, format.bytes(now.bytes_out));
        setText(worker, String(now.worker));
        setAttribute(kill, "aria-label", `Kill the connection of ${now.client}`);
      },
    };
  }

  #ask(connection) {
    this.#dialog.open({
      title: "Kill this connection?",
      content: [element("p", {}, describe(connection)), element("p", { class: "note" }, "Both sides are reset.")],
      label: "Kill",
      dangerous: true,
      perform: () => this.#kill({ ids: [connection.id] }),
    });
  }

  // Of all that match the filter now, and of none that comes later.
  async #askForMatching() {
    const answer = await call(`/v1/connections?${this.#query(MOST_KILLED)}`).catch((error) => {
      this.#showError(`Not listed: ${error.message}`);
    });
    if (!answer?.connections.length) return;
    const { connections, total } = answer;
    const left = connections.length - LISTED;
    const texts = connections.slice(0, LISTED).map(describe);
    if (left > 0) texts.push(`and ${format.plural(left, "other")}`);
    const rate = element("input", { type: "number", min: 0.1, max: MOST_KILLED, step: "any", value: 50, required: true });
    const seconds = () => format.duration(Math.max(1, connections.length / Number(rate.value)));
    const lasts = element("span", { class: "note" }, `takes ${seconds()}`);
    rate.addEventListener("input", () => setText(lasts, rate.validity.valid ? `takes ${seconds()}` : ""));
    const more = total > connections.length
      ? `${format.count(total)} match; the first ${format.count(connections.length)} are killed.` : "";
    this.#dialog.open({
      title: `Kill ${format.plural(connections.length, "connection")}?`,
      content: [
        listOf(texts),
        element("p", {}, `Both sides of each are reset. Clients that connect again are given to a destination by the weights. ${more}`),
        element("label", { class: "inline" }, "At most ", rate, " per second, ", lasts),
        element("p", { class: "note" }, "Cancel stops it on the way."),
      ],
      label: "Kill",
      dangerous: true,
      perform: ({ signal }) =>
        this.#kill({ ids: connections.map((c) => c.id), rate: Number(rate.value) }, signal),
    });
  }

  async #kill(body, signal) {
    try {
      const { killed, gone, left } = await call("/v1/connections/kill", { method: "POST", body, signal });
      const parts = [`${format.plural(killed, "connection")} killed`];
      if (gone) parts.push(`${format.count(gone)} were over already`);
      if (left) parts.push(`${format.count(left)} are still there: try again`);
      return parts.join(", ");
    } finally {
      this.refresh();
    }
  }
}
