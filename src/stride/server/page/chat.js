/** The conversation on the screen: its messages, the field below them, and the answers under way. */

import { announce, fitHeight, h, isSubmit, toast } from "./dom.js";
import { AnswerView, UserView } from "./message.js";
import { requestFields, settings } from "./settings.js";
import { save, titleOf, wire } from "./store.js";
import { Turn } from "./turn.js";

const SHOWN = 60; // messages drawn at once; earlier ones when asked for
const SAVE_MS = 1000;
const TICK_MS = 200; // how often clocks move on while nothing comes

/**
 * `changed(conversation)` is called when a conversation was written to, `refused()` when the server asked for a key.
 */
export class Chat {
  constructor(changed, refused) {
    this.changed = changed;
    this.refused = refused;
    this.turns = new Map(); // answers under way, by conversation; others may be on the screen meanwhile
    this.list = document.getElementById("messages");
    this.scroller = document.getElementById("scroll");
    this.earlier = document.getElementById("earlier");
    this.newest = document.getElementById("newest");
    this.welcome = document.getElementById("welcome");
    this.form = document.getElementById("composer");
    this.field = document.getElementById("prompt");
    this.sendButton = document.getElementById("send");
    this.stopButton = document.getElementById("stop");
    this.listen();
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener("input", () => {
      fitHeight(this.field);
      this.showComposer();
    });
    this.field.addEventListener("keydown", (event) => {
      if (!isSubmit(event)) return;
      event.preventDefault();
      this.send();
    });
    this.stopButton.addEventListener("click", () => this.stop());
    this.earlier.addEventListener("click", () => this.showEarlier());
    this.newest.addEventListener("click", () => this.follow());
    this.scroller.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    new ResizeObserver(() => this.keepBottom()).observe(this.list);
    setInterval(() => this.turn && this.schedule(), TICK_MS);
  }

  /** What answers on the screen, if anything does. */
  get turn() {
    return this.turns.get(this.conversation);
  }

  open(conversation) {
    this.conversation = conversation;
    this.views = new Map(); // by message
    this.first = Math.max(0, conversation.messages.length - SHOWN);
    this.list.replaceChildren();
    this.render();
    this.follow();
  }

  // --- what a person does ---

  send() {
    const text = this.field.value.trim();
    if (!text || this.turn) return;
    const { messages } = this.conversation;
    if (messages.length === 0) this.conversation.title = titleOf(text);
    messages.push({ role: "user", content: text });
    this.field.value = "";
    fitHeight(this.field);
    this.answer();
  }

  stop() {
    this.turn?.stop();
    this.field.focus();
  }

  regenerate(message) {
    this.cut(message, "The answer is being replaced.");
    this.answer();
  }

  resend(message, text) {
    const isFirst = this.conversation.messages[0] === message;
    this.cut(message, "What followed was removed.");
    if (isFirst) this.conversation.title = titleOf(text);
    this.conversation.messages.push({ role: "user", content: text });
    this.answer();
    this.field.focus();
  }

  giveResults(results) {
    for (const { id, content } of results) this.conversation.messages.push({ role: "tool", tool_call_id: id, content });
    this.answer();
    this.field.focus();
  }

  /** Remove a message and what follows; a person may take that back. */
  cut(message, note) {
    const { conversation } = this;
    const before = { title: conversation.title, messages: conversation.messages };
    this.turns.get(conversation)?.stop();
    this.turns.delete(conversation);
    conversation.messages = before.messages.slice(0, before.messages.indexOf(message));
    toast(note, "Undo", () => {
      this.turns.get(conversation)?.stop();
      this.turns.delete(conversation);
      Object.assign(conversation, before);
      this.keep(conversation);
      if (this.conversation === conversation) this.open(conversation);
      this.field.focus();
    });
  }

  // --- answers ---

  answer() {
    const { conversation } = this;
    const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
    const messages = [...system, ...wire(conversation.messages)];
    const body = { messages, ...requestFields(), timings_per_token: true };
    const turn = new Turn(body, () => this.progress(conversation, turn));
    this.turns.set(conversation, turn);
    conversation.messages.push(turn.message);
    conversation.updated = Date.now();
    this.keep(conversation);
    this.render();
    this.follow();
    announce("Waiting for the answer");
  }

  progress(conversation, turn) {
    if (this.turns.get(conversation) !== turn) return; // it was replaced
    if (turn.isRunning) {
      if (performance.now() - this.savedAt > SAVE_MS) this.keep(conversation);
      if (conversation === this.conversation) this.schedule();
      return;
    }
    this.turns.delete(conversation);
    conversation.updated = Date.now();
    this.keep(conversation);
    if (turn.status === 401) this.refused();
    if (conversation !== this.conversation) return;
    this.render(turn);
    announce(spoken(turn.message));
  }

  keep(conversation) {
    this.savedAt = performance.now();
    const problem = document.getElementById("storage-problem");
    try {
      save(conversation);
      problem.hidden = true;
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      problem.hidden = false;
    }
    this.changed(conversation);
  }

  // --- the screen ---

  /** Draw soon. A text that takes long to draw is drawn less often, so that the page always listens. */
  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    setTimeout(() => requestAnimationFrame(() => this.scheduled && this.render()), this.restMs ?? 0);
  }

  render() {
    const began = performance.now();
    this.scheduled = false;
    const shown = this.conversation.messages.slice(this.first);
    for (const [message, view] of this.views) {
      if (shown.includes(message)) continue;
      view.root.remove();
      this.views.delete(message);
    }
    for (const message of shown) {
      if (message.role === "tool" || this.views.has(message)) continue;
      this.views.set(message, this.newView(message));
      this.list.append(this.views.get(message).root);
    }
    this.updateAnswers(shown);
    this.earlier.hidden = this.first === 0;
    this.earlier.textContent = `Show ${this.first} earlier messages`;
    this.welcome.hidden = this.conversation.messages.length > 0;
    this.showComposer();
    this.restMs = Math.min(1000, 4 * (performance.now() - began));
  }

  newView(message) {
    if (message.role === "user") return new UserView(message, (text) => this.resend(message, text));
    return new AnswerView(message, {
      regenerate: () => this.regenerate(message),
      giveResults: (results) => this.giveResults(results),
    });
  }

  /** Answers whose state has changed: new ones, the one under way, and one that was given results. */
  updateAnswers(shown) {
    const last = shown.at(-1);
    shown.forEach((message, index) => {
      if (message.role !== "assistant") return;
      const view = this.views.get(message);
      const turn = this.turn?.message === message ? this.turn : null;
      const state = `${turn !== null}|${message === last}`;
      if (!turn && view.state === state) return;
      view.state = state;
      view.update(turn, resultsAfter(shown, index), message === last);
    });
  }

  showEarlier() {
    const below = this.scroller.scrollHeight - this.scroller.scrollTop;
    const older = this.conversation.messages.slice(Math.max(0, this.first - SHOWN), this.first);
    this.first -= older.length;
    const roots = [];
    for (const message of older.filter(({ role }) => role !== "tool")) {
      this.views.set(message, this.newView(message));
      roots.push(this.views.get(message).root);
    }
    this.list.prepend(...roots);
    this.render();
    this.scroller.scrollTop = this.scroller.scrollHeight - below;
    this.scroller.focus();
  }

  showComposer() {
    const running = this.turn !== undefined;
    this.stopButton.hidden = !running;
    this.sendButton.hidden = running;
    this.sendButton.disabled = this.field.value.trim() === "";
  }

  // --- scrolling: the newest line stays in view until a person scrolls away from it ---

  follow() {
    this.follows = true;
    this.newest.hidden = true;
    this.toBottom();
  }

  /** What grows because a person does something in it stays where it is, unless an answer is coming. */
  keepBottom() {
    if (this.follows && (this.turn || !this.list.contains(document.activeElement))) this.toBottom();
  }

  toBottom() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  noteScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const isUp = scrollTop < (this.lastTop ?? 0) - 1;
    this.lastTop = scrollTop;
    const below = scrollHeight - scrollTop - clientHeight;
    if (below < 60) this.follows = true;
    else if (isUp) this.follows = false;
    this.newest.hidden = this.follows || below < 200;
  }
}

function resultsAfter(messages, index) {
  const results = new Map();
  for (const { role, tool_call_id: id, content } of messages.slice(index + 1)) {
    if (role !== "tool") break;
    results.set(id, content);
  }
  return results;
}

/** What a screen reader says at the end of an answer. */
function spoken({ content, error, stopped, tool_calls: calls }) {
  if (error) return ""; // shown as an alert, which is read by itself
  if (stopped) return "Stopped";
  if (calls) return `The model calls ${calls.map((call) => call.function.name).join(", ")}`;
  return content.length > 500 ? `The answer is complete. It begins: ${content.slice(0, 300)}…` : `Answer: ${content}`;
}
