// The table of open connections, asked for again every two seconds while somebody can see it.

import { call } from "./api.js";
import { byId, element, KeyedNodes, setAttribute, setText, sortableHeaders } from "./dom.js";
import * as format from "./format.js";

const REFRESH = 2000; // ms
const SETTLE = 300; // ms after the last key, before a filter is used
const LIMIT = 200;

export class Connections {
  #model;
  #report;
  #form = byId("connections-filter");
  #dialog = byId("kill-dialog");
  #rows;
  #sort = { key: "age", descending: true };
  #timer = null;
  #request = null;
  #paused = false;
  #asked = null; // whose kill is to be confirmed

  // report(text, failed) tells the result of a kill.
  constructor(model, report) {
    this.#model = model;
    this.#report = report;
    this.#rows = new KeyedNodes(byId("connection-rows"), (c) => c.id, (c) => this.#row(c));
    sortableHeaders(byId("connection-table"), this.#sort, () => this.refresh());
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("input", () => this.#schedule(SETTLE));
    byId("filter-scope").addEventListener("change", () => this.#showDestinations());
    byId("connections-pause").addEventListener("click", () => this.#pause());
    document.addEventListener("visibilitychange", () => this.refresh());
    this.#dialog.addEventListener("close", () => {
      if (this.#dialog.returnValue === "confirm") this.#kill(this.#asked);
    });
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
      const answer = await call(`/v1/connections?${this.#query()}`, { signal: request.signal });
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

  #query() {
    const fields = this.#form.elements;
    const query = new URLSearchParams({
      sort: `${this.#sort.descending ? "" : "-"}${this.#sort.key}`,
      limit: LIMIT,
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
    const kill = element("button", { type: "button", class: "kill" }, "Kill");
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
        setText(client, now.client);
        setText(route, now.route);
        setText(destination, now.destination || "–");
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
    this.#asked = connection;
    const to = connection.endpoint ? ` to ${connection.endpoint}` : "";
    const by = [connection.route, connection.destination].filter(Boolean).join(", ");
    setText(byId("kill-what"), `${connection.client}${to} (${by}), open for ${format.age(connection.age)}`);
    this.#dialog.returnValue = "cancel";
    this.#dialog.showModal();
  }

  async #kill(connection) {
    try {
      const answer = await call("/v1/connections/kill", {
        method: "POST",
        body: { ids: [connection.id] },
      });
      const what = answer.killed ? "killed" : "was over already";
      this.#report(`Connection of ${connection.client} ${what}`);
    } catch (error) {
      this.#report(error.message, true);
    }
    this.refresh();
  }
}
