// Says when figures are not those of now: a banner, and everything below it dimmed.

import { byId, setText } from "./dom.js";
import * as format from "./format.js";

const STALE = 5000; // ms; a sample comes every second

export class Freshness {
  #timer = null;
  #time = null; // of the newest sample, Unix time, s
  #why = "";

  constructor() {
    this.#wait();
  }

  // A sample has come.
  heard(time) {
    this.#time = time;
    this.#wait();
    this.#show(false);
  }

  // Why nothing comes.
  explain(text) {
    this.#why = text;
    this.#write();
  }

  #wait() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#show(true), STALE);
  }

  #show(stale) {
    document.body.toggleAttribute("data-stale", stale);
    byId("stale").hidden = !stale;
    this.#write();
  }

  #write() {
    const since = this.#time === null ? "" : ` since ${format.clock(this.#time)}; all figures below are of then`;
    setText(byId("stale-text"), `No news${since}.`);
    setText(byId("stale-why"), this.#why);
  }
}
