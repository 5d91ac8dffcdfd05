/** Tool calls: what the model asks for, and what it is told. */

import { codeBlock } from "./markdown.js";
import { fitHeight, h, icon } from "./dom.js";
import { format, isObject, parse } from "./json.js";

/** The calls of one answer. `give` is called with results by id once a person has typed them all. */
export class ToolCallsView {
  constructor(give) {
    this.give = give;
    this.cards = [];
    this.button = h("button", { className: "primary", hidden: true }, "Send results");
    this.root = h("form", { className: "tools", "aria-label": "Tool calls", hidden: true }, this.button);
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.give(this.cards.map((card) => ({ id: card.id, content: card.field.value })));
    });
  }

  /** `results`: contents by id; `isOpen`: whether results can be given now. */
  update(calls, results, isOpen) {
    this.root.hidden = calls.length === 0;
    this.button.hidden = !isOpen;
    this.button.textContent = calls.length > 1 ? "Send results" : "Send result";
    calls.forEach((call, index) => {
      if (!this.cards[index]) {
        this.cards[index] = new ToolCallCard(call);
        this.button.before(this.cards[index].root);
      }
      this.cards[index].update(call, results.get(call.id), isOpen);
    });
  }
}

class ToolCallCard {
  constructor(call) {
    this.id = call.id;
    this.field = h("textarea", { rows: 1, required: true, placeholder: "What did it return?" });
    this.field.addEventListener("input", () => fitHeight(this.field));
    this.arguments = h("div", { className: "arguments" });
    this.result = h("div", { className: "result" });
    this.root = h(
      "section",
      { className: "tool", "aria-label": `Call of ${call.function.name}` },
      h("p", { className: "tool-name" }, icon("tool"), h("code", {}, call.function.name)),
      this.arguments,
      this.result,
    );
  }

  update(call, result, isOpen) {
    const text = call.function.arguments;
    if (this.shown !== text) {
      this.shown = text;
      this.arguments.replaceChildren(argumentsOf(text));
    }
    const state = `${isOpen}|${result}`;
    if (this.state === state) return;
    this.state = state;
    if (result !== undefined) this.result.replaceChildren(h("p", { className: "label" }, "Result"), resultOf(result));
    else if (isOpen) this.result.replaceChildren(h("label", {}, h("span", { className: "label" }, "Result"), this.field));
    else this.result.replaceChildren();
  }
}

/** Arguments by name; as they came while they are not whole. */
function argumentsOf(text) {
  let value;
  try {
    value = parse(text);
  } catch {
    return h("pre", { className: "raw" }, text);
  }
  if (!isObject(value)) return codeBlock(format(value), "json");
  const rows = Object.entries(value).flatMap(([name, item]) => [
    h("dt", {}, name),
    h("dd", {}, typeof item === "string" ? item : h("code", {}, format(item))),
  ]);
  return rows.length > 0 ? h("dl", {}, ...rows) : h("p", { className: "label" }, "No arguments");
}

function resultOf(text) {
  let shown = text;
  try {
    shown = format(parse(text));
  } catch {
    // Results may be any text.
  }
  return h("pre", { className: "raw" }, shown);
}
