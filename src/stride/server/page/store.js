/**
 * Conversations, kept in this browser only.
 *
 * A conversation is {id, title, updated, messages}. Messages are OpenAI's, plus what only the page uses: `stats`,
 * `error` and `stopped` of an answer; `wire` leaves these out.
 */

const PREFIX = "stride.conversation.";
const FORMAT = "stride-conversations";
const ROLES = ["user", "assistant", "tool"];
const TIMINGS = ["cache_n", "prompt_n", "prompt_per_second", "predicted_n", "predicted_per_second"];
const OWN_FIELDS = ["stats", "error", "stopped"];

export function newConversation() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "New conversation", updated: Date.now(), messages: [] };
}

/** All of them, the newest first. What is no conversation stays where it is, and is not shown. */
export function loadAll() {
  const found = [];
  for (const key of Object.keys(localStorage).filter((name) => name.startsWith(PREFIX))) {
    try {
      found.push(checked(JSON.parse(localStorage.getItem(key))));
    } catch (error) {
      console.warn(`${key} cannot be read: ${error.message}`);
    }
  }
  return found.sort((a, b) => b.updated - a.updated);
}

/** Keep a conversation. Throws DOMException where the browser has no room left. */
export function save(conversation) {
  localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
}

export function remove(conversation) {
  localStorage.removeItem(PREFIX + conversation.id);
}

/** Whether a storage event is about conversations. */
export function concerns(event) {
  return event.key === null || event.key.startsWith(PREFIX);
}

/** The first words, as a title. */
export function titleOf(text) {
  const line = text.trim().split("\n")[0];
  return line.length > 80 ? `${line.slice(0, 79)}…` : line;
}

/** The messages as the server reads them; an answer that failed before its first word is none. */
export function wire(messages) {
  return messages
    .filter((message) => message.role !== "assistant" || message.content || message.reasoning_content || message.tool_calls)
    .map((message) => Object.fromEntries(Object.entries(message).filter(([name]) => !OWN_FIELDS.includes(name))));
}

export function exportAll(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

/** Conversations from what `exportAll` gave. Throws Error where the file is something else. */
export function importAll(text) {
  const data = JSON.parse(text);
  if (data?.format !== FORMAT || data.version !== 1 || !Array.isArray(data.conversations))
    throw new Error("it is no export of conversations");
  return data.conversations.map(checked);
}

/** One conversation as a document. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  for (const message of conversation.messages) {
    const heading = { user: "You", assistant: "Model", tool: "Tool result" }[message.role];
    parts.push(`## ${heading}`);
    if (message.content) parts.push(message.content);
    for (const call of message.tool_calls ?? [])
      parts.push(`\`\`\`json\n${call.function.name} ${call.function.arguments}\n\`\`\``);
  }
  return `${parts.join("\n\n")}\n`;
}

/** A conversation that was read, of which nothing is believed. Throws Error where it is none. */
function checked(value) {
  const isText = (text) => typeof text === "string";
  const areNumbers = (numbers) => Object.values(numbers ?? {}).every(Number.isFinite);
  const areTimings = (timings) => areNumbers(timings) && TIMINGS.every((name) => name in timings);
  const areStats = ({ timings, finish, model, ...times }) =>
    (timings === undefined || areTimings(timings)) && areNumbers(times) && isText(finish ?? "") && isText(model ?? "");
  const isCall = (call) => isText(call?.id) && isText(call.function?.name) && isText(call.function.arguments);
  const isMessage = (message) =>
    ROLES.includes(message?.role) &&
    (isText(message.content) || (message.content === null && message.role === "assistant")) &&
    ["undefined", "string"].includes(typeof message.reasoning_content) &&
    areStats(message.stats ?? {}) &&
    isText(message.error ?? "") &&
    (message.tool_calls === undefined || (Array.isArray(message.tool_calls) && message.tool_calls.every(isCall)));
  const isConversation =
    /^[0-9a-f]{1,64}$/.test(value?.id) &&
    isText(value.title) &&
    Number.isFinite(value.updated) &&
    Array.isArray(value.messages) &&
    value.messages.every(isMessage);
  if (!isConversation) throw new Error("it is no conversation");
  return value;
}
