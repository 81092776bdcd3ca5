// Numbers, sizes and times as text, the way the command line writes them.

const NOTHING = "–";
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value) {
  return Number.isFinite(value) ? grouped.format(value) : NOTHING;
}

export function rate(value) {
  if (!Number.isFinite(value)) return NOTHING;
  if (value === 0 || value >= 100) return grouped.format(value);
  return value < 0.1 ? "<0.1" : value.toFixed(1).replace(/\.0$/, "");
}

// Powers of 1024, one decimal: 999 B, 1.5 KiB.
export function bytes(value) {
  if (!Number.isFinite(value)) return NOTHING;
  if (value < 1023.5) return `${Math.round(value)} B`;
  let size = value;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    size /= 1024;
    if (size < 1023.95) return `${size.toFixed(1)} ${unit}`;
  }
  return `${(size / 1024).toFixed(1)} PiB`;
}

export function byteRate(value) {
  return Number.isFinite(value) ? `${bytes(value)}/s` : NOTHING;
}

// Of a share between 0 and 1. Never 0 % or 100 % for what is only close to it.
export function percent(share) {
  if (!Number.isFinite(share)) return NOTHING;
  if (share === 0 || share === 1) return `${share * 100} %`;
  const shown = Math.min(Math.max(share * 100, 0.1), 99.9);
  return `${shown.toFixed(1).replace(/\.0$/, "")} %`;
}

// Short times, as of a handshake: three digits and the unit that fits.
export function latency(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  const [value, unit] =
    seconds < 1e-3 ? [seconds * 1e6, "µs"] : seconds < 1 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  return `${Number(value.toPrecision(3))} ${unit}`;
}

// Long times in the two units that matter: 12s, 3m 05s, 2h 10m, 5d 03h.
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d ${two(Math.floor((whole % 86400) / 3600))}h`;
}

// Ages of connections, where the first seconds are of interest.
export function age(seconds) {
  return seconds < 10 ? `${Math.max(0, seconds).toFixed(1)}s` : duration(seconds);
}

const timeOfDay = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const hourAndMinute = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });

const date = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric" });

export function day(time) {
  return date.format(time * 1000);
}

export function clock(time) {
  return timeOfDay.format(time * 1000);
}

export function clockTick(time) {
  return time % 60 === 0 ? hourAndMinute.format(time * 1000) : timeOfDay.format(time * 1000);
}

export function plural(number, noun) {
  return `${grouped.format(number)} ${noun}${number === 1 ? "" : "s"}`;
}
