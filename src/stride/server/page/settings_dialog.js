/** The dialogs that change settings. */

import { change, parseTools, settings } from "./settings.js";

const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather at a place",
      parameters: {
        type: "object",
        properties: { location: { type: "string", description: "City and country" } },
        required: ["location"],
      },
    },
  },
];

/** The settings, in their dialog. `saved` is called after they have changed. */
export class SettingsDialog {
  constructor(saved) {
    this.dialog = document.getElementById("settings");
    this.form = this.dialog.querySelector("form");
    this.tools = this.form.elements.tools;
    this.problem = document.getElementById("tools-problem");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.checkTools()) return this.tools.focus();
      change(Object.fromEntries(new FormData(this.form)));
      this.dialog.close();
      saved();
    });
    this.tools.addEventListener("input", () => this.checkTools());
    document.getElementById("tools-example").addEventListener("click", () => {
      this.tools.value = JSON.stringify(EXAMPLE, null, 2);
      this.checkTools();
    });
    document.getElementById("settings-cancel").addEventListener("click", () => this.dialog.close());
  }

  /** Open it; the server's own values stand where nothing is given. */
  open(defaults) {
    for (const field of this.form.elements) {
      if (!(field.name in settings)) continue;
      if (field.type === "radio") field.checked = field.value === settings[field.name];
      else field.value = settings[field.name];
    }
    for (const name of ["temperature", "top_p", "top_k", "max_tokens"]) {
      const value = defaults[name];
      const isUnlimited = name === "max_tokens" && value < 0;
      this.form.elements[name].placeholder = value === undefined ? "default" : isUnlimited ? "no limit" : String(value);
    }
    this.checkTools();
    this.dialog.showModal();
  }

  checkTools() {
    let problem = "";
    try {
      parseTools(this.tools.value);
    } catch (error) {
      problem = error.message;
    }
    this.problem.textContent = problem;
    this.tools.setAttribute("aria-invalid", String(problem !== ""));
    return problem === "";
  }
}

/** Asks for the key, where the server does. `saved` is called once there is one. */
export class KeyDialog {
  constructor(saved) {
    this.dialog = document.getElementById("key");
    const form = this.dialog.querySelector("form");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      change({ apiKey: form.elements.apiKey.value.trim() });
      this.dialog.close();
      saved();
    });
  }

  open() {
    if (!document.querySelector("dialog[open]")) this.dialog.showModal();
    document.getElementById("key-problem").textContent = settings.apiKey ? "The key that this browser has is wrong." : "";
  }
}
