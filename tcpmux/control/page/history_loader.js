// The history of the chosen route. Of what has been since this page was opened the stream tells; of
// the hour before, and of its marks, control.

import { call } from "./api.js";
import { byId, setText } from "./dom.js";

const SETTLE = 1000; // ms after an event, before its mark is asked for

export class HistoryLoader {
  #model;
  #onLoaded;
  #timer = null;

  constructor(model, onLoaded) {
    this.#model = model;
    this.#onLoaded = onLoaded;
  }

  // Events come in bursts.
  loadSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.load(), SETTLE);
  }

  async load() {
    const { chosen: name, history } = this.#model;
    if (!history) return;
    let failed = "";
    try {
      history.load(await call(`/v1/history?route=${encodeURIComponent(name)}`));
    } catch (error) {
      if (history.isLoaded) return;
      failed = `What was before this page was opened is not shown: ${error.message}.`;
    }
    if (history !== this.#model.history) return;
    setText(byId("history-error"), failed);
    byId("history-error").hidden = !failed;
    this.#onLoaded();
  }
}
