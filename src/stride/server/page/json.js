/** JSON as it was written: numbers keep all their digits. */

/** A number's own text. */
class Digits {
  constructor(text) {
    this.text = text;
  }
}

/**
 * The value of a JSON text, whose numbers are `Digits` in browsers that tell their text.
 * Throws SyntaxError where it is no JSON.
 */
export function parse(text) {
  return JSON.parse(text, (key, value, context) =>
    typeof value === "number" && context?.source ? new Digits(context.source) : value,
  );
}

/** A value from `parse` as text, indented. */
export function format(value, indent = "") {
  if (value instanceof Digits) return value.text;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}  `;
  const isArray = Array.isArray(value);
  const entries = isArray
    ? value.map((item) => format(item, inner))
    : Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${format(item, inner)}`);
  const [open, close] = isArray ? "[]" : "{}";
  if (entries.length === 0) return open + close;
  return `${open}\n${inner}${entries.join(`,\n${inner}`)}\n${indent}${close}`;
}

/** Whether a value is an object with names, and neither a list nor a number. */
export function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Digits);
}
