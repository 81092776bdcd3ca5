// Reads the configuration files again, which takes back the weights that were set at run time.

import { listOf } from "./action_dialog.js";
import { call } from "./api.js";
import { element } from "./dom.js";
import * as format from "./format.js";
import { appliedText } from "./weights.js";

const SHOWN = 10;

export function askForReload(dialog, table) {
  const unsaved = (table?.routes ?? []).flatMap((route) =>
    route.destinations
      .filter((d) => d.weight !== d.file_weight)
      .map((d) => `${route.name} / ${d.name}: ${format.count(d.weight)}`),
  );
  const shown = unsaved.slice(0, SHOWN);
  if (unsaved.length > shown.length) shown.push(`and ${format.plural(unsaved.length - shown.length, "other")}`);
  const warning = unsaved.length
    ? "These weights were set at run time, and go back to those of the file:"
    : "No weight was set at run time.";
  dialog.open({
    title: "Read the configuration files again?",
    content: [
      element("p", {}, "Open connections stay. If a file has a mistake, nothing changes."),
      element("p", {}, warning),
      listOf(shown),
    ],
    label: "Reload",
    perform: async () => appliedText(await call("/v1/reload", { method: "POST", body: {} })),
  });
}
