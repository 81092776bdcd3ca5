// The dialog that every change goes through: what it will do, and why it was refused, if it was.

import { byId, element, setAttribute, setText } from "./dom.js";

export function listOf(texts) {
  return element("ul", { class: "changes" }, ...texts.map((text) => element("li", {}, text)));
}

export class ActionDialog {
  #dialog = byId("action-dialog");
  #confirm = byId("confirm-action");
  #report;
  #action = null;
  #request = null;

  // report(text) tells what has been done.
  constructor(report) {
    this.#report = report;
    byId("cancel-action").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => {
      this.#request?.abort();
      this.#action = null;
    });
    byId("action-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#perform();
    });
  }

  // action: {title, content (nodes), label, dangerous, prepare({signal}), perform({force, signal})}.
  // perform() returns what has been done, as a text, or throws. prepare(), which may be missing,
  // completes the content first; it returns whether there is something to be done, or throws.
  open(action) {
    this.#action = action;
    setText(byId("action-title"), action.title);
    byId("action-content").replaceChildren(...action.content);
    setText(this.#confirm, action.label);
    setAttribute(this.#confirm, "class", action.dangerous ? "danger" : "primary");
    this.#showError(null);
    this.#offer(true);
    this.#dialog.showModal();
    if (action.prepare) this.#prepare(action);
  }

  isOpenFor(action) {
    return action !== null && this.#action === action;
  }

  // What is to be done has become another thing meanwhile.
  update(action, content) {
    if (this.isOpenFor(action)) byId("action-content").replaceChildren(...content);
  }

  close(action) {
    if (this.isOpenFor(action)) this.#dialog.close();
  }

  async #prepare(action) {
    const request = (this.#request = new AbortController());
    this.#setBusy(true);
    try {
      const isOffered = await action.prepare({ signal: request.signal });
      if (this.isOpenFor(action)) this.#offer(isOffered);
    } catch (error) {
      if (!this.isOpenFor(action)) return;
      this.#offer(false);
      this.#showError(error);
    } finally {
      if (this.#request === request) this.#setBusy(false);
    }
  }

  // Without something to be done there is only a way out.
  #offer(isOffered) {
    this.#confirm.hidden = !isOffered;
    setText(byId("cancel-action"), isOffered ? "Cancel" : "Close");
  }

  async #perform() {
    if (this.#confirm.hidden) return;
    const action = this.#action;
    const request = (this.#request = new AbortController());
    this.#setBusy(true);
    try {
      const text = await action.perform({ force: byId("force-action").checked, signal: request.signal });
      this.#report(text);
      this.close(action);
    } catch (error) {
      if (request.signal.aborted) this.#report(`${action.title} Stopped on the way.`);
      else this.#showError(error);
    } finally {
      this.#setBusy(false);
    }
  }

  #setBusy(busy) {
    this.#confirm.disabled = busy;
    setAttribute(this.#confirm, "aria-busy", busy && "true");
  }

  #showError(error) {
    setText(byId("action-error"), error ? `Not done: ${error.message}` : "");
    byId("force-action").checked = false;
    byId("force-row").hidden = error?.hint !== "force";
  }
}
