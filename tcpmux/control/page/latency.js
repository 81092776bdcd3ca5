// Percentiles of the last seconds, from histograms that count since the start.

const WINDOW = 10; // s: one second has too few connections for a 99th percentile

// Within a bucket the values are taken as spread evenly. What is above the last bound is given as
// that bound, as nothing more is known.
function quantile(counts, bounds, part) {
  const total = counts.reduce((all, one) => all + one, 0);
  if (!(total > 0)) return NaN;
  const wanted = total * part;
  let below = 0;
  for (let i = 0; i < bounds.length; i += 1) {
    if (counts[i] > 0 && below + counts[i] >= wanted) {
      const lower = i ? bounds[i - 1] : 0;
      return lower + ((bounds[i] - lower) * (wanted - below)) / counts[i];
    }
    below += counts[i];
  }
  return bounds.at(-1);
}

export class LatencyWindow {
  #route = null;
  #snapshots = [];

  // `histograms` as in a sample -> Map of destination -> {connect_p50_seconds, connect_p99_seconds}.
  add(time, histograms, bounds) {
    const newest = {
      time,
      counts: new Map(histograms.destinations.map((d) => [d.name, d.connect_seconds])),
    };
    if (histograms.route !== this.#route || this.#wentBack(newest)) this.#snapshots = [];
    this.#route = histograms.route;
    this.#snapshots = this.#snapshots.filter((old) => old.time > time - WINDOW - 0.5);
    this.#snapshots.push(newest);
    const oldest = this.#snapshots[0].counts;
    const result = new Map();
    for (const [name, counts] of newest.counts) {
      const before = oldest.get(name) ?? [];
      const grown = counts.map((value, i) => value - (before[i] ?? value));
      result.set(name, {
        connect_p50_seconds: quantile(grown, bounds, 0.5),
        connect_p99_seconds: quantile(grown, bounds, 0.99),
      });
    }
    return result;
  }

  #wentBack(newest) {
    const before = this.#snapshots.at(-1)?.counts;
    if (!before) return false;
    return [...newest.counts].some(([name, counts]) =>
      counts.some((value, i) => value < (before.get(name)?.[i] ?? 0)),
    );
  }
}
