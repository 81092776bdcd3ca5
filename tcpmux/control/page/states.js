// Takes a destination or an endpoint out of service, and back into it.

import { call, routePath } from "./api.js";
import { element } from "./dom.js";
import * as format from "./format.js";
import { appliedText } from "./weights.js";

const CHOICES = [
  ["ready", "Enabled", "takes new connections"],
  ["draining", "Drained", "no new connections; open ones go on until they end by themselves"],
  ["disabled", "Disabled", "the same, to say that it is out of service on purpose"],
];

// Opens the dialog about a destination or, with an endpoint, about that. open: its connections.
export function askForState(dialog, { route, destination, endpoint = null, state, open }) {
  const name = [route, destination, endpoint].filter(Boolean).join(" / ");
  const choices = CHOICES.map(([value, word, meaning]) => {
    const input = element("input", {
      type: "radio", name: "state", value, required: true, checked: value === state,
    });
    return element("label", { class: "choice" }, input, element("strong", {}, word), ` ${meaning}`);
  });
  const group = element("div", { role: "radiogroup", "aria-label": "State" }, ...choices);
  const note = open > 0 ? `${format.plural(open, "connection")} open now: none is cut.` : "";
  dialog.open({
    title: `${name}: change its state`,
    content: [group, element("p", { class: "note" }, note)],
    label: "Apply",
    async perform({ force }) {
      const chosen = group.querySelector("input:checked").value;
      const path = routePath(route, `destinations/${encodeURIComponent(destination)}/state`);
      const body = { state: chosen, ...(endpoint && { endpoint }), ...(force && { force }) };
      return appliedText(await call(path, { method: "PUT", body }));
    },
  });
}
