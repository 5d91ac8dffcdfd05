/** The list of conversations, which is a drawer on narrow screens. */

import { download, h, iconButton, toast } from "./dom.js";
import { exportAll, importAll, loadAll, remove, save, toMarkdown } from "./store.js";

const WIDE = matchMedia("(min-width: 60rem)");

/** `opened(conversation)` is called when one is chosen, with null for a new one. */
export class Sidebar {
  constructor(opened) {
    this.opened = opened;
    this.all = loadAll();
    this.root = document.getElementById("sidebar");
    this.list = document.getElementById("conversations");
    this.page = document.getElementById("page");
    this.menu = document.getElementById("menu");
    this.listen();
    this.toggle(false);
  }

  listen() {
    const on = (id, action) => document.getElementById(id).addEventListener("click", action);
    on("menu", () => this.toggle(true));
    on("close-menu", () => this.toggle(false));
    on("shade", () => this.toggle(false));
    on("new", () => this.choose(null));
    on("export-one", () => this.current && download(`${this.fileName()}.md`, "text/markdown", toMarkdown(this.current)));
    on("export-all", () => download("stride-conversations.json", "application/json", exportAll(this.all)));
    const file = document.getElementById("import-file");
    on("import", () => file.click());
    file.addEventListener("change", () => this.import(file));
    WIDE.addEventListener("change", () => this.toggle(false));
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.isDrawer) return;
      event.stopPropagation();
      this.toggle(false);
    });
  }

  get isDrawer() {
    return !WIDE.matches;
  }

  /** Open or close the drawer; on wide screens it always is open. */
  toggle(open) {
    const wasOpen = document.body.classList.contains("drawer-open");
    document.body.classList.toggle("drawer-open", open && this.isDrawer);
    this.root.inert = this.isDrawer && !open;
    this.page.inert = this.isDrawer && open;
    this.menu.setAttribute("aria-expanded", String(open));
    if (open) document.getElementById("new").focus();
    else if (wasOpen) this.menu.focus();
  }

  choose(conversation) {
    this.toggle(false);
    this.opened(conversation);
  }

  /** Show which one is open; `running` are those that are being answered. */
  update(current, running) {
    this.current = current;
    if (current.messages.length > 0 && !this.all.includes(current)) this.all.unshift(current);
    this.all.sort((a, b) => b.updated - a.updated);
    const signature = JSON.stringify([this.all.map((c) => [c.id, c.title, running.has(c)]), current.id]);
    if (signature === this.signature) return;
    this.signature = signature;
    this.list.replaceChildren(...this.all.map((conversation) => this.row(conversation, running.has(conversation))));
    document.getElementById("title").textContent = current.title;
    document.title = current.messages.length > 0 ? `${current.title} – Stride` : "Stride";
  }

  row(conversation, isRunning) {
    const name = h("button", { type: "button", className: "conversation", onclick: () => this.choose(conversation) });
    name.append(h("span", {}, conversation.title));
    if (isRunning) name.append(h("span", { className: "dot", role: "img", "aria-label": "answering" }));
    if (conversation === this.current) name.setAttribute("aria-current", "true");
    const bin = iconButton("bin", `Delete ${conversation.title}`, () => this.delete(conversation));
    return h("li", {}, name, bin);
  }

  delete(conversation) {
    remove(conversation);
    this.all = this.all.filter((other) => other !== conversation);
    toast("The conversation was deleted.", "Undo", () => {
      save(conversation);
      this.all.push(conversation);
      this.opened(conversation);
    });
    this.signature = null;
    this.opened(conversation === this.current ? null : this.current);
  }

  async import(file) {
    const problem = document.getElementById("import-problem");
    problem.textContent = "";
    try {
      const known = new Set(this.all.map(({ id }) => id));
      const found = importAll(await file.files[0].text()).filter(({ id }) => !known.has(id));
      found.forEach(save);
      this.all.push(...found);
    } catch (error) {
      problem.textContent = `The file cannot be imported: ${error.message}`;
    }
    file.value = "";
    this.signature = null;
    this.update(this.current, new Set());
  }

  /** Read everything anew: another tab has changed it. Gives the conversation with this id, if there still is one. */
  reload(id) {
    this.all = loadAll();
    return this.all.find((conversation) => conversation.id === id);
  }

  fileName() {
    return this.current.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "conversation";
  }
}
