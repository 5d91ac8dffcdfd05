/** JSON as it was written: numbers keep all their digits. */

/** A number's own text. */
class Digits {
  constructor(text) {
    this.text = text;
  }
}

/**
 * The value of a JSON text, whose numbers are `Digits`. Throws SyntaxError where it is no JSON, or has numbers and the
 * browser is too old to tell their text; what is shown then is the JSON as it came.
 */
export function parse(text) {
  return JSON.parse(text, (key, value, context) => {
    if (typeof value !== "number") return value;
    if (!context?.source) throw new SyntaxError("this browser does not tell how a number was written");
    return new Digits(context.source);
  });
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
