/**
 * Markdown to elements. marked splits the text into tokens; elements are made of them here, so that HTML in the text
 * stays text, links lead only where links should, and images, which would tell their server who reads, are links.
 */

import { copyButton, h } from "./dom.js";
import { lexer } from "./vendor/marked.js";

const OPTIONS = { gfm: true, breaks: true };
const SAFE_PROTOCOLS = ["http:", "https:", "mailto:"];
const ENTITIES = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", hellip: "…", ndash: "–", mdash: "—", middot: "·",
  times: "×", deg: "°", copy: "©", reg: "®", trade: "™", euro: "€", larr: "←", rarr: "→", le: "≤", ge: "≥", ne: "≠",
};

/**
 * A growing text, shown in `root`. While it grows only its last blocks are read again; elements of blocks that did not
 * change stay what they are, so that a reader's selection survives.
 */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    this.root.replaceChildren();
    this.blocks = []; // {raw, node} of each block in root
    this.settled = 0; // blocks that no further text can change …
    this.start = 0; // … and where the text after them begins
  }

  /** Show the text: what was shown before, and more. */
  update(text) {
    const tokens = this.show(text.replace(/\r\n?/g, "\n"));
    // The last two blocks may yet become one: "1. a", blank line, "2" is a list and a paragraph until "." follows.
    const written = tokens.filter(({ type }) => type !== "space");
    const end = written.length > 2 ? tokens.indexOf(written.at(-2)) : 0;
    for (const token of tokens.slice(0, end)) this.settle(token);
  }

  /** Show the whole text, read in one piece. */
  finish(text) {
    this.settled = 0;
    this.start = 0;
    const tokens = this.show(text.replace(/\r\n?/g, "\n"));
    if (Object.keys(tokens.links ?? {}).length === 0) return;
    this.clear(); // references to links may stand before them
    this.show(text.replace(/\r\n?/g, "\n"));
  }

  show(text) {
    const tokens = tokenize(text.slice(this.start));
    let index = this.settled;
    for (const token of tokens) {
      const old = this.blocks[index];
      if (old?.raw !== token.raw) {
        if (old && token.type === "code" && old.code === (token.lang ?? "")) {
          old.node.querySelector("code").textContent = token.text;
          old.raw = token.raw;
        } else {
          const node = block(token);
          if (old) old.node.replaceWith(node);
          else this.root.append(node);
          this.blocks[index] = { raw: token.raw, node, code: token.type === "code" ? (token.lang ?? "") : undefined };
        }
      }
      index += 1;
    }
    for (const { node } of this.blocks.splice(index)) node.remove();
    return tokens;
  }

  settle(token) {
    this.settled += 1;
    this.start += token.raw.length;
  }
}

function tokenize(text) {
  try {
    return lexer(text, OPTIONS);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return [{ type: "html", raw: text, text }]; // nested too deep to read: shown as it stands
  }
}

/** Every block token has a node of its own, be it an empty one, so that blocks and nodes stay in step. */
function block(token) {
  switch (token.type) {
    case "space":
    case "def":
      return document.createTextNode("");
    case "heading": // below the headings of the page
      return h(`h${Math.min(token.depth + 2, 6)}`, {}, ...inline(token.tokens));
    case "code":
      return codeBlock(token.text, token.lang ?? "");
    case "blockquote":
      return h("blockquote", {}, ...token.tokens.map(block));
    case "hr":
      return h("hr");
    case "list":
      return list(token);
    case "table":
      return table(token);
    case "text":
      return h("span", {}, ...inline(token.tokens ?? [token]));
    case "paragraph":
      return h("p", {}, ...inline(token.tokens));
    default: // html, and whatever a later marked may know
      return h("p", { className: "verbatim" }, token.text ?? token.raw);
  }
}

/** Code with its language and a button that copies it. */
export function codeBlock(text, lang) {
  const language = lang.split(/[\s{,]/)[0];
  const code = h("code", {}, text);
  return h(
    "figure",
    { className: "code" },
    h("figcaption", {}, h("span", {}, language), copyButton("Copy code", () => code.textContent)),
    h("pre", { tabIndex: 0, role: "group", "aria-label": language ? `Code, ${language}` : "Code" }, code),
  );
}

function list(token) {
  const items = token.items.map((item) => {
    const box = item.task && h("input", { type: "checkbox", checked: item.checked, disabled: true, "aria-label": "Done" });
    const content = item.tokens.filter((part) => part.type !== "checkbox").map(block);
    return h("li", { className: item.task ? "task" : "" }, ...(box ? [box] : []), ...content);
  });
  return token.ordered ? h("ol", { start: Number(token.start) || 1 }, ...items) : h("ul", {}, ...items);
}

function table(token) {
  const row = (cells, tag) =>
    h("tr", {}, ...cells.map((cell) => h(tag, { className: cell.align ?? "" }, ...inline(cell.tokens))));
  const head = h("thead", {}, row(token.header, "th"));
  const body = h("tbody", {}, ...token.rows.map((cells) => row(cells, "td")));
  return h("div", { className: "table", tabIndex: 0, role: "group", "aria-label": "Table" }, h("table", {}, head, body));
}

function inline(tokens) {
  return tokens.flatMap((token) => {
    switch (token.type) {
      case "text":
        return token.tokens ? inline(token.tokens) : [decode(token.text)];
      case "escape":
        return [token.text];
      case "strong":
      case "em":
      case "del":
        return [h(token.type, {}, ...inline(token.tokens))];
      case "codespan":
        return [h("code", {}, token.text)];
      case "br":
        return [h("br")];
      case "link":
        return link(token.href, inline(token.tokens), token.raw);
      case "image":
        return link(token.href, [decode(token.text || token.href)], token.raw);
      case "checkbox":
        return [];
      default:
        return [token.text ?? token.raw];
    }
  });
}

function link(address, content, raw) {
  const url = URL.parse?.(decode(address)) ?? parseUrl(decode(address));
  if (!SAFE_PROTOCOLS.includes(url?.protocol)) return [raw];
  return [h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...content)];
}

function parseUrl(address) {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}

/** Character references as characters; unknown ones stay as they are written. */
function decode(text) {
  return text.replace(/&(#x[0-9a-f]{1,6}|#\d{1,7}|\w+);/gi, (whole, name) => {
    if (!name.startsWith("#")) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
    const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}
