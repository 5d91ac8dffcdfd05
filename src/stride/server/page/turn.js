/** One answer while it is made: asks the server, waits where it must, and gathers what comes. */

import { streamChat } from "./api.js";

/**
 * An answer under way. `message` is filled while it comes; `changed` is called after each piece and at the end.
 *
 * `waiting` is why nothing comes yet, for a person; null once something does.
 */
export class Turn {
  constructor(body, changed) {
    this.message = { role: "assistant", content: "" };
    this.namesModel = "model" in body; // which it does where there are several
    this.waiting = "Reading the prompt";
    this.started = performance.now();
    this.changed = changed;
    this.controller = new AbortController();
    this.done = this.run(body);
  }

  get isRunning() {
    return this.ended === undefined;
  }

  get isThinking() {
    return this.thinkingSince !== undefined && this.thoughtUntil === undefined;
  }

  /** Milliseconds of thought so far. */
  get thoughtMs() {
    return (this.thoughtUntil ?? performance.now()) - this.thinkingSince;
  }

  stop() {
    this.controller.abort();
  }

  async run(body) {
    const { signal } = this.controller;
    while (this.isRunning) {
      try {
        for await (const chunk of streamChat(body, signal)) this.take(chunk);
        this.end();
      } catch (error) {
        if (signal.aborted) this.end({ stopped: true });
        else if (error.retrySeconds && !this.message.stats) await this.pause(error, signal);
        else this.end({ error: error.message, status: error.status });
      }
    }
  }

  /** Wait for a server that is loading, or that has too much to do. */
  async pause({ message, retrySeconds }, signal) {
    this.waiting = `${message}. Trying again`;
    this.changed();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, retrySeconds * 1000);
      const resolveNow = () => {
        clearTimeout(timer);
        resolve();
      };
      signal.addEventListener("abort", resolveNow, { once: true });
    });
    this.waiting = "Reading the prompt";
    this.started = performance.now();
    if (signal.aborted) this.end({ stopped: true });
  }

  take(chunk) {
    const now = performance.now();
    const [choice] = chunk.choices;
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice?.delta ?? {};
    const { message } = this;
    if (content || reasoning || calls) {
      message.stats ??= { firstTokenMs: now - this.started };
      this.waiting = null;
    }
    if (reasoning) {
      this.thinkingSince ??= now;
      message.reasoning_content = (message.reasoning_content ?? "") + reasoning;
    }
    if (content || calls) this.endThought(now);
    if (content) message.content += content;
    for (const call of calls ?? []) this.takeCall(call);
    if (this.namesModel && message.stats) message.stats.model = chunk.model;
    if (chunk.timings) (message.stats ??= {}).timings = chunk.timings;
    if (choice?.finish_reason) (message.stats ??= {}).finish = choice.finish_reason;
    this.changed();
  }

  takeCall({ index, id, function: { name, arguments: piece } }) {
    const calls = (this.message.tool_calls ??= []);
    calls[index] ??= { id, type: "function", function: { name, arguments: "" } };
    calls[index].function.arguments += piece ?? "";
  }

  endThought(now) {
    if (!this.isThinking) return;
    this.thoughtUntil = now;
    this.message.stats.thoughtMs = this.thoughtMs;
  }

  end({ stopped, error, status } = {}) {
    this.ended = performance.now();
    this.waiting = null;
    this.status = status;
    this.endThought(this.ended);
    if (stopped) this.message.stopped = true;
    if (error) this.message.error = error;
    this.changed();
  }
}
