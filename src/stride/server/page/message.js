/** How messages look. */

import { copyButton, fitHeight, h, icon, iconButton, isSubmit } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { ToolCallsView } from "./tools.js";

/** A person's message. `resend` is called with the text that it is to have instead. */
export class UserView {
  constructor(message, resend) {
    this.message = message;
    this.resend = resend;
    this.article = h("article", {});
    this.root = h("li", { className: "message user" }, h("h2", { className: "visually-hidden" }, "You"), this.article);
    this.show();
  }

  show() {
    this.edit = iconButton("edit", "Edit and send again", () => this.startEditing());
    const actions = h("div", { className: "actions" }, copyButton("Copy message", () => this.message.content), this.edit);
    this.article.replaceChildren(h("div", { className: "bubble" }, this.message.content), actions);
  }

  startEditing() {
    const field = h("textarea", { value: this.message.content, "aria-label": "Your message" });
    const stop = () => {
      this.show();
      this.edit.focus();
    };
    const send = (event) => {
      event.preventDefault();
      if (field.value.trim()) this.resend(field.value.trim());
    };
    field.addEventListener("input", () => fitHeight(field));
    field.addEventListener("keydown", (event) => {
      if (isSubmit(event)) send(event);
      if (event.key !== "Escape") return;
      event.stopPropagation();
      stop();
    });
    const form = h(
      "form",
      { className: "edit", onsubmit: send },
      field,
      h("button", { type: "button", onclick: stop }, "Cancel"),
      h("button", { className: "primary" }, "Send"),
    );
    this.article.replaceChildren(form);
    fitHeight(field);
    field.focus();
  }
}

/** An answer. `actions`: {regenerate(), giveResults(results)}. */
export class AnswerView {
  constructor(message, actions) {
    this.message = message;
    this.thought = new ThoughtView();
    this.content = h("div", { className: "prose" });
    this.markdown = new MarkdownView(this.content);
    this.tools = new ToolCallsView(actions.giveResults);
    this.waiting = h("p", { className: "waiting", hidden: true });
    this.note = h("p", { className: "note" });
    this.stats = h("p", { className: "stats" });
    const retry = h("button", { type: "button", onclick: actions.regenerate }, "Try again");
    this.error = h("div", { className: "error", role: "alert", hidden: true }, icon("alert"), h("p"), retry);
    this.actions = h(
      "div",
      { className: "actions" },
      copyButton("Copy answer", () => this.message.content ?? ""),
      iconButton("again", "Answer again", actions.regenerate),
      this.stats,
    );
    this.root = h(
      "li",
      { className: "message answer" },
      h("h2", { className: "visually-hidden" }, "Model"),
      h("article", {}, this.thought.root, this.content, this.tools.root, this.waiting, this.note, this.error, this.actions),
    );
  }

  /** Show the message as it is now. `turn` is what makes it, or null; `results`: contents of its calls by id. */
  update(turn, results, isLast) {
    const { message } = this;
    const running = turn?.isRunning ?? false;
    this.root.classList.toggle("running", running);
    this.root.setAttribute("aria-busy", String(running));
    this.thought.update(message, turn, running);
    if (running) this.markdown.update(message.content ?? "");
    else this.markdown.finish(message.content ?? "");
    const calls = (message.tool_calls ?? []).filter(Boolean);
    const isOpen = isLast && !running && message.stats?.finish === "tool_calls";
    this.tools.update(calls, results, isOpen);
    this.waiting.hidden = !turn?.waiting;
    if (turn?.waiting) this.waiting.textContent = `${turn.waiting}… ${seconds(performance.now() - turn.started)}`;
    this.note.textContent = noteOf(message, running);
    this.error.hidden = !message.error;
    if (this.error.querySelector("p").textContent !== (message.error ?? ""))
      this.error.querySelector("p").textContent = message.error ?? "";
    this.stats.replaceChildren(...statsOf(message.stats ?? {}));
  }
}

/** The reasoning: open while the model thinks, folded when it answers, unless a person chose otherwise. */
class ThoughtView {
  constructor() {
    this.label = h("span");
    this.body = h("div", { className: "prose" });
    this.markdown = new MarkdownView(this.body);
    const summary = h("summary", { onclick: () => (this.chosen = true) }, icon("chevron"), this.label);
    this.root = h("details", { className: "thought", hidden: true }, summary, this.body);
    this.root.addEventListener("toggle", () => this.render());
  }

  update(message, turn, running) {
    this.text = message.reasoning_content ?? "";
    this.root.hidden = this.text === "";
    if (this.root.hidden) return;
    const thinking = turn?.isThinking ?? false;
    this.running = running;
    this.root.classList.toggle("thinking", thinking);
    this.label.textContent = thinking ? `Thinking… ${seconds(turn.thoughtMs)}` : thoughtLabel(message.stats?.thoughtMs);
    if (!this.chosen) this.root.open = thinking;
    this.render();
    if (thinking) this.body.scrollTop = this.body.scrollHeight;
  }

  render() {
    if (!this.root.open || this.text === this.shown) return; // what is folded costs nothing
    this.shown = this.text;
    if (this.running) this.markdown.update(this.text);
    else this.markdown.finish(this.text);
  }
}

function thoughtLabel(ms) {
  return ms === undefined ? "Thought" : `Thought for ${seconds(ms)}`;
}

function noteOf({ stopped, error, stats }, running) {
  if (stopped) return "Stopped.";
  if (!running && !error && !stats?.finish) return "The page was left before the answer ended.";
  return stats?.finish === "length" ? "The answer ends here because it reached its limit of tokens." : "";
}

/** What an answer cost, as far as it is known. */
function statsOf({ model, timings, firstTokenMs }) {
  const parts = model ? [[model, "The model that answered"]] : [];
  if (timings) {
    parts.push([`${decimal(timings.predicted_per_second)} tok/s`, "Speed of generation"]);
    parts.push([`${timings.predicted_n} tokens`, "Tokens of the answer"]);
  }
  if (firstTokenMs !== undefined) parts.push([`first token ${seconds(firstTokenMs)}`, "Time to the first token"]);
  if (timings?.prompt_n) {
    const cached = timings.cache_n ? `, ${timings.cache_n} from the cache` : "";
    parts.push([`prompt ${decimal(timings.prompt_per_second)} tok/s`, `Prompt: ${timings.prompt_n} tokens read${cached}`]);
  }
  return parts.map(([text, title]) => h("span", { title }, text));
}

function seconds(ms) {
  if (ms < 100) return `${Math.round(ms)} ms`;
  const value = ms / 1000;
  if (value >= 60) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  return `${value.toFixed(value < 10 ? 1 : 0)} s`;
}

function decimal(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });
}
