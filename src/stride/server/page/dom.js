/** Elements, made of names and text. Nothing here, or anywhere in the page, turns text into markup. */

/**
 * An element with properties, attributes and listeners (`onclick`); strings among the children become text,
 * null and undefined nothing.
 */
export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** One of the symbols in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A small button that shows an icon and is called by its label. */
export function iconButton(name, label, onclick) {
  return h("button", { type: "button", className: "icon-button", "aria-label": label, title: label, onclick }, icon(name));
}

/** A button that copies what `text()` gives, and says so for a moment. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    const copied = await copy(text());
    button.replaceChildren(icon(copied ? "check" : "cross"));
    announce(copied ? "Copied" : "The browser did not allow copying");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  // Browsers keep the clipboard from pages of other machines without TLS, but not this older way.
  const field = h("textarea", { value: text, className: "visually-hidden" });
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  return copied;
}

/** Let screen readers say something when they have time. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

let toastTimer;

/** A note for some seconds, with one thing to do about it. */
export function toast(text, label, action) {
  const place = document.getElementById("toast");
  const hide = () => place.replaceChildren();
  const act = () => {
    hide();
    action();
  };
  place.replaceChildren(h("span", {}, text), h("button", { type: "button", onclick: act }, label));
  clearTimeout(toastTimer);
  toastTimer = setTimeout(hide, 8000);
}

/** Make a text area as high as its text; the style sheet says how high at most. */
export function fitHeight(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

/** Whether Enter in a text area means "done": not while an input method composes, nor on a touch keyboard. */
export function isSubmit(event) {
  const touch = matchMedia("(pointer: coarse)").matches;
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch;
}

/** Give the person a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
