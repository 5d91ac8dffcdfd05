/** How to ask: kept in this browser, empty where the server's own defaults are to hold. */

const KEY = "stride.settings";
const DEFAULTS = {
  system: "",
  temperature: "",
  top_p: "",
  top_k: "",
  max_tokens: "",
  reasoning_effort: "",
  tools: "",
  apiKey: "",
  theme: "",
  model: "",
};

/** The settings in force: texts, as they stand in the form. */
export const settings = { ...DEFAULTS, ...stored() };

function stored() {
  try {
    const value = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    const known = Object.entries(value).filter(([name, text]) => name in DEFAULTS && typeof text === "string");
    return Object.fromEntries(known);
  } catch (error) {
    console.warn(`The settings cannot be read: ${error.message}`);
    return {};
  }
}

/** Change some settings and keep them. Throws DOMException where the browser has no room left. */
export function change(values) {
  Object.assign(settings, values);
  document.documentElement.dataset.theme = settings.theme;
  localStorage.setItem(KEY, JSON.stringify(settings));
}

/** What a request says besides its messages. */
export function requestFields() {
  const fields = {};
  for (const name of ["temperature", "top_p", "top_k", "max_tokens"])
    if (settings[name] !== "") fields[name] = Number(settings[name]);
  for (const name of ["reasoning_effort", "model"]) if (settings[name]) fields[name] = settings[name];
  const tools = parseTools(settings.tools);
  if (tools.length > 0) fields.tools = tools;
  return fields;
}

/** Tools as OpenAI has them, from JSON. Throws Error that says what is wrong. */
export function parseTools(text) {
  if (text.trim() === "") return [];
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is no JSON: ${error.message}`);
  }
  if (!Array.isArray(value)) throw new Error("Tools are a list: [ … ].");
  value.forEach((tool, index) => {
    if (tool?.type !== "function" || typeof tool.function?.name !== "string" || tool.function.name === "")
      throw new Error(`Tool ${index + 1} must have "type": "function" and a "function" with a "name".`);
  });
  return value;
}
