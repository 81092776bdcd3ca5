// Helpers over the DOM, so that the views say what they show and not how nodes come about.

export function byId(id) {
  return document.getElementById(id);
}

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  node.append(...children);
  return node;
}

// Writing only what differs keeps layout cheap and screen readers quiet.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// null and false remove the attribute, true sets it without a value.
export function setAttribute(node, name, value) {
  if (value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value === true ? "" : value)) {
    node.setAttribute(name, value === true ? "" : value);
  }
}

// State in a shape and a word, as colour alone would not reach everybody.
const MARKS = {
  healthy: "●", running: "●", live: "●",
  degraded: "◐", draining: "◐", retiring: "◐", away: "◐", orphaned: "◐", connecting: "◐", reconnecting: "◐",
  down: "✕", refused: "✕",
  converging: "◐", paused: "○",
  promoted: "●", "rolled back": "✕", aborted: "○",
  drained: "◇", disabled: "○",
};

export function showState(node, state) {
  setText(node, `${MARKS[state] ?? "●"} ${state}`);
  setAttribute(node, "data-state", state);
}

// Children of one parent that follow a list: a node stays with its key, so that focus and
// selection survive an update. `create(item)` returns {node, update(item)}.
export class KeyedNodes {
  #parent;
  #keyOf;
  #create;
  #rows = new Map();

  constructor(parent, keyOf, create) {
    this.#parent = parent;
    this.#keyOf = keyOf;
    this.#create = create;
  }

  show(items) {
    const focused = document.activeElement;
    const keys = new Set(items.map(this.#keyOf));
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue;
      row.node.remove();
      this.#rows.delete(key);
    }
    let next = this.#parent.firstElementChild;
    for (const item of items) {
      const key = this.#keyOf(item);
      let row = this.#rows.get(key);
      if (!row) this.#rows.set(key, (row = this.#create(item)));
      row.update(item);
      if (row.node === next) next = next.nextElementSibling;
      else this.#parent.insertBefore(row.node, next);
    }
    // A node that is moved loses the focus.
    if (focused !== document.activeElement && this.#parent.contains(focused)) {
      focused.focus({ preventScroll: true });
    }
  }
}

// Buttons in the headers of a table. `sort` is {key, descending}; `onSort` is told of another one.
export function sortableHeaders(table, sort, onSort) {
  const headers = [...table.querySelectorAll("th[data-sort]")];
  const mark = () => {
    for (const header of headers) {
      const chosen = header.dataset.sort === sort.key;
      const order = sort.descending ? "descending" : "ascending";
      setAttribute(header, "aria-sort", chosen ? order : null);
    }
  };
  for (const header of headers) {
    header.querySelector("button").addEventListener("click", () => {
      const key = header.dataset.sort;
      const textual = header.dataset.order === "text";
      sort.descending = sort.key === key ? !sort.descending : !textual;
      sort.key = key;
      mark();
      onSort();
    });
  }
  mark();
}
