// Reads text/event-stream with fetch, which EventSource could not do with a token, and comes back
// when connection lost.

import { open, Unauthorized } from "./api.js";

const SILENCE = 5000; // ms; a sample comes every second
const SHORTEST_WAIT = 1; // s
const MAX_WAIT = 10; // s

// Text in pieces of any size -> onEvent(type, data). `id` and `retry` are of no use here.
class EventParser {
  #onEvent;
  #rest = "";
  #afterReturn = false;
  #type = "";
  #data = [];

  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  push(piece) {
    // A line feed after a carriage return ends no second line, even if it comes in the next piece.
    let text = this.#afterReturn && piece.startsWith("\n") ? piece.slice(1) : piece;
    if (piece) this.#afterReturn = piece.endsWith("\r");
    // What was there before has no line end, so only the new piece is searched.
    const lineEnd = /\r\n|\r|\n/g;
    lineEnd.lastIndex = this.#rest.length;
    text = this.#rest + text;
    let start = 0;
    for (let end = lineEnd.exec(text); end; end = lineEnd.exec(text)) {
      this.#line(text.slice(start, end.index));
      start = lineEnd.lastIndex;
    }
    this.#rest = text.slice(start);
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length) this.#onEvent(this.#type || "message", this.#data.join("\n"));
      this.#type = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#type = value;
    else if (field === "data") this.#data.push(value);
  }
}

function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

// Random up to a bound that doubles, so that many pages do not come back in the same moment.
function waitBefore(attempt) {
  const bound = Math.min(MAX_WAIT, 2 ** attempt);
  return SHORTEST_WAIT + Math.random() * (bound - SHORTEST_WAIT);
}

export class EventStream {
  #onEvent;
  #onState;
  #current = null;

  // onEvent(type, value); onState("live" | "reconnecting" | "refused", why). Refused, it ends.
  constructor({ onEvent, onState }) {
    this.#onEvent = onEvent;
    this.#onState = onState;
  }

  // In place of the stream that is open, if one is.
  open(path) {
    this.#current?.abort();
    this.#current = new AbortController();
    this.#run(path, this.#current.signal);
  }

  async #run(path, signal) {
    let attempt = 0;
    while (!signal.aborted) {
      let why = "the stream ended";
      try {
        await this.#read(path, signal, () => {
          attempt = 0;
          this.#onState("live", "");
        });
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Unauthorized) return this.#onState("refused", error.message);
        why = error.message;
      }
      if (signal.aborted) return;
      this.#onState("reconnecting", why);
      attempt += 1;
      await pause(waitBefore(attempt), signal);
    }
  }

  async #read(path, signal, onData) {
    const silent = new AbortController();
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(new Error("nothing heard for 5 s")), SILENCE);
    };
    heard();
    try {
      const response = await open(path, {
        headers: { Accept: "text/event-stream" },
        signal: AbortSignal.any([signal, silent.signal]),
      });
      const parser = new EventParser((type, data) => {
        // A stream that has been replaced may still have something in its buffer.
        if (signal.aborted) return;
        onData();
        this.#onEvent(type, JSON.parse(data));
      });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        heard();
        parser.push(piece.value);
      }
    } finally {
      clearTimeout(timer);
    }
  }
}
