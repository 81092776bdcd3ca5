// Kinds of events, as the eye tells them apart: what somebody wanted, what has gone wrong, the rest.

const GROUPS = {
  change: ["weights", "state", "reload", "workers", "kill", "log_level"],
  life: ["start", "stop", "upgrade"],
};
const COLOURS = { change: "accent", life: "muted", trouble: "down" };

export function groupOf(kind) {
  return Object.keys(GROUPS).find((group) => GROUPS[group].includes(kind)) ?? "trouble";
}

// The name of a colour in the style sheet.
export function colourOf(kind) {
  return COLOURS[groupOf(kind)];
}
