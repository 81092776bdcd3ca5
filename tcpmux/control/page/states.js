// Takes a destination or an endpoint out of service, and back into it.

import { call, routePath } from "./api.js";
import { element } from "./dom.js";
import * as format from "./format.js";
import { appliedText } from "./weights.js";

const CHOICES = [
  ["ready", "Enabled", "takes new connections"],
  ["draining", "Drained", "no new connections; open ones go on until they end, or converge if the file says so"],
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
  const minutes = element("input", { type: "number", name: "minutes", min: 1, max: 525600, step: 1, inputmode: "numeric" });
  const until = element(
    "label", { class: "inline" }, "Enabled again after ", minutes, " minutes; empty: not by itself",
  );
  const chosen = () => group.querySelector("input:checked")?.value;
  const showUntil = () => {
    // A destination has no such time.
    until.hidden = minutes.disabled = endpoint === null || (chosen() ?? "ready") === "ready";
  };
  group.addEventListener("change", showUntil);
  showUntil();
  const note = open > 0 ? `${format.plural(open, "connection")} open now: none is cut.` : "";
  dialog.open({
    title: `${name}: change its state`,
    content: [group, until, element("p", { class: "note" }, note)],
    label: "Apply",
    async perform({ force }) {
      const path = routePath(route, `destinations/${encodeURIComponent(destination)}/state`);
      const seconds = minutes.disabled ? 0 : minutes.valueAsNumber * 60;
      const body = {
        state: chosen(), ...(endpoint && { endpoint }), ...(force && { force }), ...(seconds && { seconds }),
      };
      return appliedText(await call(path, { method: "PUT", body }));
    },
  });
}
