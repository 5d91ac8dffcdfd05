"""Commands to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from stride.bench.blocks import Block, Listing
from stride.bench.results import Results, TargetResult


def quick_reference(results: Results, command: Sequence[str], folder: Path) -> Iterator[Block]:
    here = shlex.quote(str(folder))
    lines = ["# Measure again, as it was typed", shlex.join(command)]
    lines += ["", "# The same targets, tests, seeds and repeats, into another folder"]
    lines += [f"stride bench replay {here} --out again"]
    lines += ["", "# Compare the two", f"stride bench compare {here} again"]
    lines += ["", "# Grade the stored answers by today's rules; nothing is measured", f"stride bench regrade {here}"]
    for target in results.targets:
        if target.command:
            lines += ["", f"# Serve {target.label}", _serve_again(target)]
    measured = [target for target in results.targets if target.url]
    if measured:
        url = "http://127.0.0.1:8090" if "serve" in measured[0].command else measured[0].url
        body = json.dumps({"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 100})
        lines += ["", "# Ask", f"curl {url}/v1/chat/completions \\"]
        lines += ['  -H "Content-Type: application/json" \\', f"  -d {shlex.quote(body)}"]
    yield Listing("Commands", "\n".join(lines), "bash", open=True)


def _serve_again(target: TargetResult) -> str:
    """The command that served a target; Stride's own with the usual port instead of any free one."""
    stride = target.typed[:2] == ["stride", "serve"]
    return shlex.join("8090" if stride and argument == "0" else argument for argument in target.typed)
