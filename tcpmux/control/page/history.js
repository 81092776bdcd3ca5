// The last hour of one route: what control has kept, and the points that have come since. Rates are
// per second, over ten seconds; null is what nobody knows.

export const KEPT = 3600; // s
const STEP = 10; // s between points, as control keeps them
const LONGEST_GAP = 3 * STEP; // s; beyond it a line is broken

const COLUMNS = [
  "connections",
  "bytes_in",
  "bytes_out",
  "connect_failures",
  "weight",
  "connect_p50_seconds",
  "connect_p99_seconds",
];

const nulls = (length) => new Array(length).fill(null);

export class RouteHistory {
  times = [];
  lost = []; // connections of clients that were rejected or lost
  marks = [];
  isLoaded = false; // with what control has kept
  #lists = new Map(); // by destination, then by column

  constructor(destinations) {
    this.setDestinations(destinations);
  }

  get names() {
    return [...this.#lists.keys()];
  }

  column(name, column) {
    return this.#lists.get(name)[column];
  }

  latest(name, column) {
    return this.column(name, column).at(-1) ?? NaN;
  }

  // Keeps what is known of the names that stay.
  setDestinations(names) {
    const empty = () => Object.fromEntries(COLUMNS.map((c) => [c, nulls(this.times.length)]));
    this.#lists = new Map(names.map((name) => [name, this.#lists.get(name) ?? empty()]));
  }

  // `valueOf(name, column)` of now. The last point is of the last second, those before it ten apart.
  add(time, lost, valueOf) {
    if (time - this.times.at(-1) > LONGEST_GAP) this.#push(this.times.at(-1) + STEP, null, () => null);
    if (time - this.times.at(-2) < STEP) this.#drop(-1);
    this.#push(time, lost, valueOf);
    while (time - this.times[0] > KEPT) this.#drop(0);
  }

  // Takes in an answer of GET /v1/history. Own points stay where it has none: before control was
  // started, and after its newest.
  load({ time, step, points, marks, lost, destinations }) {
    this.marks = marks;
    this.isLoaded = true;
    const times = Array.from({ length: points }, (_, i) => time - (points - 1 - i) * step);
    const before = this.times.filter((own) => own < (times[0] ?? Infinity) - step / 2).length;
    const after = this.times.findIndex((own) => own > time);
    const merged = (own, kept) => [
      ...own.slice(0, before), ...kept, ...(points && after >= 0 ? own.slice(after) : []),
    ];
    const told = new Map(destinations.map((d) => [d.name, d]));
    for (const [name, lists] of this.#lists) {
      for (const column of COLUMNS) {
        lists[column] = merged(lists[column], told.get(name)?.[column] ?? nulls(points));
      }
    }
    this.lost = merged(this.lost, lost);
    this.times = merged(this.times, times);
  }

  #push(time, lost, valueOf) {
    const known = (value) => (Number.isFinite(value) ? value : null);
    this.times.push(time);
    this.lost.push(known(lost));
    for (const [name, lists] of this.#lists) {
      for (const column of COLUMNS) lists[column].push(known(valueOf(name, column)));
    }
  }

  #drop(index) {
    this.times.splice(index, 1);
    this.lost.splice(index, 1);
    for (const lists of this.#lists.values()) {
      for (const column of COLUMNS) lists[column].splice(index, 1);
    }
  }
}
