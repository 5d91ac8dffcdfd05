"""Markdown becomes elements, whatever it holds, and nothing else does."""

from __future__ import annotations

import pytest

from stride.types import ContentDelta, Finish, ReasoningDelta, Timings, ToolCallDelta, ToolCallStart, Usage

FINISH = Finish("stop", Usage(7, 3, 2, 1), Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0))
RENDER = """
const [text, done] = arguments;
import("/page/markdown.js").then(({ MarkdownView }) => {
  const root = document.createElement("div");
  new MarkdownView(root).finish(text);
  for (const button of root.querySelectorAll("button")) button.remove();
  done(root.innerHTML);
});
"""
STREAM = """
const [text, step, done] = arguments;
import("/page/markdown.js").then(({ MarkdownView }) => {
  const [whole, grown] = [document.createElement("div"), document.createElement("div")];
  new MarkdownView(whole).finish(text);
  const view = new MarkdownView(grown);
  for (let end = step; end < text.length; end += step) view.update(text.slice(0, end));
  view.update(text);
  const before = grown.innerHTML;
  view.finish(text);
  done([whole.innerHTML, before, grown.innerHTML]);
});
"""
LINK = 'target="_blank" rel="noopener noreferrer nofollow"'
RICH = """# Title

A *paragraph* with `code`, **bold [link](https://example.com)** &amp; more
on two lines.

1. one

2. two
   - inner
   - [x] done

> quoted
> > deeper

| a | b |
|:--|--:|
| 1 | 2 |

```js
const x = "a < b";

```

    indented

***

<div onclick="x()">raw</div>

end"""


@pytest.fixture
def render(page):
    page = page().open()
    return lambda text: page.driver.execute_async_script(RENDER, text)


def test_markdown(render):
    table = {
        "a *b* **c** ~~d~~ `e<f`": "<p>a <em>b</em> <strong>c</strong> <del>d</del> <code>e&lt;f</code></p>",
        "a\nb": "<p>a<br>b</p>",
        "# a\n\n###### b": "<h3>a</h3><h6>b</h6>",
        "2. a\n3. b": '<ol start="2"><li class=""><span>a</span></li><li class=""><span>b</span></li></ol>',
        "&lt;b&gt; &eacute; &#x27; &": "<p>&lt;b&gt; &amp;eacute; ' &amp;</p>",
        "[a](https://x.y/?a=1&b=2)": f'<p><a href="https://x.y/?a=1&amp;b=2" {LINK}>a</a></p>',
        "https://x.y": f'<p><a href="https://x.y/" {LINK}>https://x.y</a></p>',
        "![alt](https://x.y/a.png)": f'<p><a href="https://x.y/a.png" {LINK}>alt</a></p>',
        "[a][1]\n\n[1]: https://x.y": f'<p><a href="https://x.y/" {LINK}>a</a></p>',
        "\\*a\\*": "<p>*a*</p>",
        "> a": "<blockquote><p>a</p></blockquote>",
        "": "",
    }
    assert {text: render(text) for text in table} == table


def test_code_keeps_its_text_and_names_its_language(render):
    made = render('```python title="x"\nif a < b:\n\tpass\n```')
    assert "<span>python</span>" in made
    assert "<code>if a &lt; b:\n\tpass</code>" in made
    assert render("```\nnever closed") == render("```\nnever closed\n```")


@pytest.mark.parametrize("step", [1, 7])
def test_a_growing_text_ends_as_the_whole_does(page, step):
    page = page().open()
    whole, before, after = page.driver.execute_async_script(STREAM, RICH, step)
    assert after == whole
    assert before == whole


@pytest.mark.parametrize(
    "text", ["1. a\n\n2. b\n\n3. c", "[a][1] and\n\n- x\n\n- y\n\npara\n\n[1]: https://x.y", "a\r\nb\r\n\r\nc"]
)
def test_what_later_text_changes_is_right_at_the_end(page, text):
    page = page().open()
    whole, _, after = page.driver.execute_async_script(STREAM, text, 1)
    assert after == whole


def test_text_that_is_nested_too_deep_is_shown_as_it_is(render):
    assert render(">" * 20000).count("&gt;") == 20000


HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload='window.pwned = 1'><a xlink:href='javascript:window.pwned=1'>x</a></svg>",
    "<iframe srcdoc='<script>parent.pwned = 1</script>'></iframe>",
    "<style>body { display: none }</style><link rel=stylesheet href=//evil.example>",
    "<form action=//evil.example><button>Sign in</button></form>",
    "[a](javascript:window.pwned=1)",
    "[a](JaVaScRiPt&colon;window.pwned=1) [b](java&#x09;script:window.pwned=1) [c](&#106;avascript:window.pwned=1)",
    "[a](data:text/html,<script>window.pwned=1</script>) [b](vbscript:x) [c](file:///etc/passwd) [d](blob:x)",
    "![a](javascript:window.pwned=1) ![b](https://evil.example/pixel.png)",
    "[a](<javascript:window.pwned=1>) <javascript:window.pwned=1>",
    '[a](https://x.y "onmouseover=window.pwned=1") [b](https://x.y/"onmouseover="window.pwned=1)',
    '```html"><script>window.pwned=1</script>\n</code><script>window.pwned = 1</script>\n```',
    "| <script>window.pwned=1</script> | a |\n|--|--|\n| <img src=x onerror=window.pwned=1> | b |",
    "# <script>window.pwned=1</script>\n\n- <img src=x onerror=window.pwned=1>\n\n> <b onclick=x>c</b>",
    "</div></article></main><script>window.pwned=1</script>",
    "__proto__ constructor {{7*7}} ${window.pwned=1} %3Cscript%3E",
]
CENSUS = """
const count = (selector) => document.querySelectorAll(selector).length;
return {
  pwned: window.pwned ?? null,
  foreign: count("#messages :is(script, img, iframe, object, embed, style, link, base, meta, video, audio)")
    + count("form[action], #conversations :is(script, img), #messages svg:not(.icon)"),
  handlers: [...document.querySelectorAll("*")].flatMap((e) => e.getAttributeNames()).filter((n) => n.startsWith("on")),
  links: [...document.links].map((a) => a.protocol).filter((p) => !["http:", "https:", "mailto:"].includes(p)),
  scripts: count("script"),
};
"""


def test_nothing_that_is_said_runs_or_loads(page):
    page = page().open()
    clean = page.run(CENSUS)
    text = "\n\n".join(HOSTILE)
    arguments = '{"<script>window.pwned=1</script>": "<img src=x onerror=window.pwned=1>", "__proto__": {"a": "<b>"}}'
    calls = [
        ToolCallStart(0, "a", HOSTILE[1]),
        ToolCallDelta(0, arguments),
        Finish("tool_calls", FINISH.usage, FINISH.timings),
    ]
    pieces = [ContentDelta(text[i : i + 9]) for i in range(0, len(text), 9)]
    page.model.steps = [ReasoningDelta(text), *pieces, *calls]
    page.run("document.getElementById('prompt').value = arguments[0]", " ".join(HOSTILE).replace("\n", " "))
    answer = page.ask(HOSTILE[1])
    page.click(".thought summary")
    page.wait_text(".thought", "<script>window.pwned = 1</script>")
    for part in ("<script>window.pwned = 1</script>", "onerror=", "[a](javascript:window.pwned=1)"):
        assert part in answer.text
    page.find(".tool textarea").send_keys(HOSTILE[1])
    page.click(".tools button")
    page.wait(lambda: len(page.all(".answer")) == 2)
    page.answered()
    assert page.run(CENSUS) == clean
    page.open()
    page.click(".conversation")
    assert page.run(CENSUS) == clean
    assert HOSTILE[0] in page.find(".bubble").text


def test_the_browser_refuses_markup_made_of_text(page):
    page = page().open()
    refused = page.run(
        "try { document.createElement('div').innerHTML = '<b>x</b>'; return null } catch (e) { return e.name }"
    )
    assert refused == "TypeError"
    page.driver.get_log("browser")  # the attempt is told there
