// What the counters of a route were in the last ten minutes. Counters are kept rather than rates:
// any window can be had from them later, and a lost sample loses nothing.

export const KEPT = 600; // s, at a sample a second
const CAPACITY = KEPT + 10; // a little more, so that the oldest rates shown have a full window

export const COUNTERS = [
  "connections_total",
  "bytes_in_total",
  "bytes_out_total",
  "connect_failures_total",
  "errors_total",
];
export const WEIGHT = "effective_weight";
export const LATENCIES = ["p50", "p99"];

// Rings of one length for each column, that are written at the same place.
export class RouteHistory {
  #times = new Float64Array(CAPACITY);
  #destinations = new Map();
  #next = 0;
  length = 0;

  // Keeps what is known of the names that stay.
  setDestinations(names) {
    const kept = new Map();
    for (const name of names) kept.set(name, this.#destinations.get(name) ?? new Map());
    this.#destinations = kept;
  }

  // `valueOf(name, column)` is NaN or undefined where there is none.
  add(time, columns, valueOf) {
    this.#times[this.#next] = time;
    for (const [name, rings] of this.#destinations) {
      for (const column of columns) {
        const value = valueOf(name, column) ?? NaN;
        let ring = rings.get(column);
        // Most routes are never looked at closely: a column without values takes no memory.
        if (!ring && Number.isNaN(value)) continue;
        if (!ring) rings.set(column, (ring = new Float64Array(CAPACITY).fill(NaN)));
        ring[this.#next] = value;
      }
    }
    this.#next = (this.#next + 1) % CAPACITY;
    this.length = Math.min(this.length + 1, CAPACITY);
  }

  get names() {
    return [...this.#destinations.keys()];
  }

  times() {
    return this.#inOrder(this.#times);
  }

  column(name, column) {
    const ring = this.#destinations.get(name)?.get(column);
    return ring ? this.#inOrder(ring) : new Float64Array(this.length).fill(NaN);
  }

  #inOrder(ring) {
    const values = new Float64Array(this.length);
    const oldest = (this.#next - this.length + CAPACITY) % CAPACITY;
    const first = Math.min(this.length, CAPACITY - oldest);
    values.set(ring.subarray(oldest, oldest + first));
    values.set(ring.subarray(0, this.length - first), first);
    return values;
  }
}
