// From counters over time to what is drawn: rates and shares. null breaks a line: where samples
// are missing, or a counter went back because the instance was started again.

const MAX_GAP = 5; // s
export const WINDOW = 10; // s, over which the measured share is taken

export function rates(times, counter) {
  const result = new Array(times.length).fill(null);
  for (let i = 1; i < times.length; i += 1) {
    const seconds = times[i] - times[i - 1];
    const grown = counter[i] - counter[i - 1];
    if (grown >= 0 && seconds > 0 && seconds <= MAX_GAP) result[i] = grown / seconds;
  }
  return result;
}

export function sum(lists) {
  return lists[0].map((_, i) =>
    lists.some((list) => list[i] === null) ? null : lists.reduce((all, list) => all + list[i], 0),
  );
}

// Where the window that ends at each sample begins: never before a gap or a restart.
function windowStarts(times, counters) {
  const starts = new Array(times.length).fill(0);
  let start = 0;
  for (let i = 1; i < times.length; i += 1) {
    const broken =
      times[i] - times[i - 1] > MAX_GAP || counters.some((counter) => counter[i] < counter[i - 1]);
    if (broken) start = i;
    while (times[i] - times[start] > WINDOW + 0.5) start += 1;
    starts[i] = start;
  }
  return starts;
}

// Of new connections, each destination's part over the window.
export function measuredShares(times, counters) {
  const starts = windowStarts(times, counters);
  const result = counters.map(() => new Array(times.length).fill(null));
  for (let i = 0; i < times.length; i += 1) {
    // A destination that was not there at the start of the window has no value there.
    const grown = counters.map((counter) => counter[i] - counter[starts[i]] || 0);
    const total = grown.reduce((all, one) => all + one, 0);
    if (total > 0) grown.forEach((one, d) => (result[d][i] = one / total));
  }
  return result;
}

export function askedShares(weights) {
  const result = weights.map(() => new Array(weights[0].length).fill(null));
  for (let i = 0; i < weights[0].length; i += 1) {
    const total = weights.reduce((all, weight) => all + (weight[i] || 0), 0);
    if (total > 0) weights.forEach((weight, d) => (result[d][i] = (weight[i] || 0) / total));
  }
  return result;
}

export function withoutNaN(values) {
  return Array.from(values, (value) => (Number.isNaN(value) ? null : value));
}
