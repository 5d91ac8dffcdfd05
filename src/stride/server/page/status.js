/** What is known of the server: whether it answers, its model, its memory. */

import { request } from "./api.js";
import { h } from "./dom.js";
import { change, settings } from "./settings.js";

const READY_MS = 3000;
const WAITING_MS = 1000;
const RESIDENT = /^\S*resident_memory_bytes(?:\{[^}]*\})? (\S+)/m;
const EXPERTS = /^\S*expert(?:_(hits|misses)|s_(came_true))_total\{[^}]*\} (\S+)/gm;

const NOTICES = {
  loading: "The model is loading. You can write already; the answer comes once it is ready.",
  unreachable: "The server cannot be reached. Trying again every second.",
  locked: "This server asks for an API key.",
};

/** Watches the server while the page is seen. `locked()` is called when it asks for a key that it was not given. */
export class Status {
  constructor(locked) {
    this.locked = locked;
    this.state = "";
    this.defaults = {};
    this.usedTokens = 0;
    this.select = document.getElementById("model");
    this.select.addEventListener("change", () => {
      change({ model: this.select.value });
      this.showModel();
    });
    document.addEventListener("visibilitychange", () => this.check());
  }

  /** Forget what is known, and ask: what is asked with has changed. */
  restart() {
    this.state = "";
    this.check();
  }

  /** Ask now, and from now on again and again. */
  async check() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    const round = (this.round = {});
    const state = await this.ask();
    if (round !== this.round) return; // asked anew meanwhile
    this.show(state);
    this.timer = setTimeout(() => this.check(), state === "ready" ? READY_MS : WAITING_MS);
  }

  async ask() {
    const signal = AbortSignal.timeout(5000);
    try {
      await request("health", { signal });
      if (this.state !== "ready" || !this.nCtx) await this.readModels(signal);
      await this.readMemory(signal);
      return "ready";
    } catch (error) {
      if (error.status === 401) return "locked";
      return error.status === 503 ? "loading" : "unreachable";
    }
  }

  async readModels(signal) {
    this.models = (await (await request("v1/models", { signal })).json()).data;
    const names = this.models.map(({ id }) => id);
    if (String(names) !== String([...this.select.options].map(({ value }) => value)))
      this.select.replaceChildren(...names.map((id) => h("option", { value: id }, id)));
    if (!names.includes(settings.model)) change({ model: names.length > 1 ? names[0] : "" });
    if (settings.model) this.select.value = settings.model;
    this.showModel();
    this.defaults = await this.readDefaults(signal);
  }

  /** What holds where a request says nothing. Of several models, one that is not loaded is not asked: it would be. */
  async readDefaults(signal) {
    const isSeveral = this.models.length > 1;
    if (isSeveral && this.model.status?.value !== "loaded") return {};
    try {
      const path = isSeveral ? `props?model=${encodeURIComponent(this.model.id)}` : "props";
      const props = await (await request(path, { signal })).json();
      return props.default_generation_settings?.params ?? {};
    } catch (error) {
      if (![400, 404].includes(error.status)) throw error;
      return {};
    }
  }

  /** Not every server tells its memory, nor always; nothing is shown then. */
  async readMemory(signal) {
    if (this.tellsNoMemory) return;
    try {
      const text = await (await request("metrics", { signal })).text();
      const bytes = Number(RESIDENT.exec(text)?.[1]);
      document.getElementById("memory").textContent =
        (bytes > 0 ? `Memory ${gigabytes(bytes)}` : "") + experts(text);
    } catch (error) {
      if (![404, 500].includes(error.status)) throw error;
      this.tellsNoMemory = error.status === 404;
    }
  }

  show(state) {
    if (state === this.state) return;
    this.state = state;
    const notice = document.getElementById("notice");
    notice.replaceChildren();
    if (state in NOTICES) notice.append(h("span", {}, NOTICES[state]));
    if (state === "unreachable")
      notice.append(h("button", { type: "button", onclick: () => this.check() }, "Try now"));
    if (state === "locked") {
      notice.append(h("button", { type: "button", onclick: () => this.locked() }, "Enter key"));
      this.locked();
    }
  }

  /** The one that is asked. */
  get model() {
    return this.models.find(({ id }) => id === this.select.value);
  }

  showModel() {
    const { model } = this;
    const name = document.getElementById("model-name");
    name.textContent = model.id;
    name.hidden = this.models.length > 1;
    this.select.hidden = this.models.length === 1;
    document.getElementById("prompt").placeholder = `Message ${model.id}`;
    this.nCtx = model.meta?.n_ctx;
    this.showContext(this.usedTokens);
  }

  /** Tokens that the conversation on the screen takes, as far as the last answer told. */
  showContext(usedTokens) {
    this.usedTokens = usedTokens;
    const place = document.getElementById("context");
    const count = (n) => n.toLocaleString("en");
    if (!this.nCtx) return place.replaceChildren();
    const meter = h("meter", { max: this.nCtx, value: usedTokens, high: 0.9 * this.nCtx, "aria-hidden": "true" });
    return place.replaceChildren(meter, `Context ${count(usedTokens)} of ${count(this.nCtx)}`);
  }
}

/** How many of the experts wanted so far were in memory, where they stay on disk. */
function experts(text) {
  let [found, wanted] = [0, 0];
  for (const [, outcome, , count] of text.matchAll(EXPERTS)) {
    if (outcome === "hits") found += Number(count);
    wanted += Number(count);
  }
  return wanted > 0 ? ` · ${Math.round((100 * found) / wanted)} % of experts found in memory` : "";
}

function gigabytes(bytes) {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(0)} MB`;
}
