/** The page: what knows of what. */

import { Chat } from "./chat.js";
import { settings } from "./settings.js";
import { KeyDialog, SettingsDialog } from "./settings_dialog.js";
import { Sidebar } from "./sidebar.js";
import { Status } from "./status.js";
import { concerns, newConversation } from "./store.js";

const keyDialog = new KeyDialog(() => status.restart());
const settingsDialog = new SettingsDialog(() => status.restart());
const status = new Status(() => keyDialog.open());
const chat = new Chat(show, () => keyDialog.open());
const sidebar = new Sidebar((conversation) => {
  open(conversation ?? newConversation());
  document.getElementById("prompt").focus();
});

function open(conversation) {
  chat.open(conversation);
  show();
}

/** Show what is told of the conversation outside of it. */
function show() {
  sidebar.update(chat.conversation, new Set(chat.turns.keys()));
  const told = chat.conversation.messages.findLast((message) => message.stats?.timings)?.stats.timings;
  status.showContext(told ? told.cache_n + told.prompt_n + told.predicted_n : 0);
}

document.getElementById("open-settings").addEventListener("click", () => settingsDialog.open(status.defaults));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.turn && !document.querySelector("dialog[open]")) chat.stop();
});
window.addEventListener("pagehide", () => chat.turns.forEach((turn, conversation) => chat.keep(conversation)));
window.addEventListener("storage", (event) => {
  if (!concerns(event) || chat.turns.size > 0) return;
  open(sidebar.reload(chat.conversation.id) ?? chat.conversation);
});

document.documentElement.dataset.theme = settings.theme;
open(newConversation());
status.check();
