// Events as the eye tells them apart: what has gone wrong, what somebody wanted, the rest.

const GROUPS = {
  change: ["weights", "state", "reload", "workers", "kill", "converge", "rollout", "log_level"],
  life: ["start", "stop", "upgrade"],
};
const COLOURS = { error: "down", warning: "degraded" };

// What is neither a change nor a start is a failure or the end of one.
export function groupOf({ kind }) {
  return Object.keys(GROUPS).find((group) => GROUPS[group].includes(kind)) ?? "trouble";
}

// The name of a colour in the style sheet.
export function colourOf({ kind, level }) {
  return COLOURS[level] ?? (GROUPS.change.includes(kind) ? "accent" : "muted");
}
