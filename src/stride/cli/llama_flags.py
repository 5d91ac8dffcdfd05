"""llama-server's flags that mean nothing here, or cannot be honoured: a table, so that its command lines work.

Each row: names, whether a value follows, and why nothing happens (or why the server must not start).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Value = Literal["none", "one", "optional"]

_CPU = "this build computes on the CPU"
_LOAD = "each byte of the file is read once, into the layout that the kernels want"
_WARM = "nothing is run ahead of the first request, and memory is planned before it is taken"
_CACHE = "the cache of keys and values is paged and never shifted"
_BATCH = "prompts are processed in chunks of a fixed size"
_THREADS = "-t sets the threads"
_LOG = "the log goes to stderr"
_DRAFT = "how many drafts pay is measured"
_CONSTRAINT = "requests say what their answer must match (grammar, json_schema, regex), not the server"
_ADAPTER = "adapters are not part of this version"
_MEDIA = "this version reads text only"
_ROPE = "the model file says how positions are scaled"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A flag of llama-server. ``harmless``: the answers are the same without it."""

    names: tuple[str, ...]
    value: Value
    reason: str
    harmless: bool = True


def _rows(harmless: bool, table: str, reasons: dict[str, str]) -> list[Foreign]:
    rows = []
    for line in table.strip().splitlines():
        value, reason, *names = line.split()
        kind: Value = "none" if value == "-" else "optional" if value == "?" else "one"
        rows.append(Foreign(tuple(names), kind, reasons[reason], harmless))
    return rows


NO_EFFECT = _rows(
    True,
    """
    N cpu     -ngl --gpu-layers --n-gpu-layers
    N cpu     -sm --split-mode
    N cpu     -ts --tensor-split
    N cpu     -mg --main-gpu
    N cpu     -dev --device
    N cpu     -ot --override-tensor
    - cpu     -cmoe --cpu-moe
    N cpu     -ncmoe --n-cpu-moe
    - cpu     -kvo --kv-offload
    - cpu     -nkvo --no-kv-offload
    - cpu     --op-offload
    - cpu     --no-op-offload
    - cpu     --no-host
    N cpu     -fit --fit
    N cpu     -fitt --fit-target
    N cpu     -fitc --fit-ctx
    - warm    --warmup
    - warm    --no-warmup
    - load    --mlock
    - load    --mmap
    - load    --no-mmap
    - load    --repack
    - load    -nr
    - load    --no-repack
    - load    --direct-io
    - load    --check-tensors
    N load    -lm --load-mode
    N load    --numa
    ? attn    -fa --flash-attn
    - same    -cb --cont-batching
    - same    --jinja
    - same    --prefill-assistant
    - same    --perf
    - same    --no-perf
    - same    -e --escape
    - same    --no-escape
    - same    --offline
    - same    --no-webui
    - same    --no-ui
    - same    --no-context-shift
    - same    --slots
    - same    --no-slots
    - same    --metrics
    - same    --embedding --embeddings
    - same    --props
    N cache   --cache-reuse
    N same    -sps --slot-prompt-similarity
    N same    -to --timeout
    N same    --threads-http
    N cache   -dt --defrag-thold
    - cache   --swa-full
    - cache   -kvu --kv-unified
    - cache   -no-kvu --no-kv-unified
    N cache   -ctxcp --ctx-checkpoints --swa-checkpoints
    N batch   -b --batch-size
    N batch   -ub --ubatch-size
    N threads -tb --threads-batch
    N draft   --draft-min --draft-n-min --spec-draft-n-min
    N draft   --draft-p-min --spec-draft-p-min
    N draft   --draft-p-split
    N main    -cd --ctx-size-draft
    N main    -ngld --gpu-layers-draft --n-gpu-layers-draft
    N main    -devd --device-draft
    N main    -td --threads-draft
    N main    -tbd --threads-batch-draft
    N main    -ctkd --cache-type-k-draft
    N main    -ctvd --cache-type-v-draft
    N threads -C --cpu-mask
    N threads -Cr --cpu-range
    N threads --cpu-strict
    N threads --prio
    N threads --poll
    - log     --log-disable
    ? log     --log-colors
    - log     --log-prefix
    - log     --log-timestamps
    N log     -lv --verbosity --log-verbosity
    """,
    {
        "cpu": _CPU,
        "warm": _WARM,
        "load": _LOAD,
        "cache": _CACHE,
        "batch": _BATCH,
        "draft": _DRAFT,
        "main": "a draft model runs as the model does",
        "threads": _THREADS,
        "log": _LOG,
        "attn": "attention is always computed in one pass",
        "same": "this is how it is, always, or it is not there to be tuned",
    },
)

REFUSED = _rows(
    False,
    """
    N draft   -hfd -hfrd --hf-repo-draft
    N grammar --grammar
    N grammar --grammar-file
    N grammar -j --json-schema
    N grammar -jf --json-schema-file
    N adapter --lora
    N adapter --lora-scaled
    N adapter --control-vector
    N adapter --control-vector-scaled
    N media   -mm --mmproj
    N media   -mmu --mmproj-url
    N norm    --embd-normalize
    - rerank  --rerank --reranking
    N rope    --rope-scaling
    N rope    --rope-scale
    N rope    --rope-freq-base
    N rope    --rope-freq-scale
    N rope    --override-kv
    - shift   --context-shift
    - jinja   --no-jinja
    - prefill --no-prefill-assistant
    N path    --path
    N path    --api-prefix
    N tls     --ssl-key-file
    N tls     --ssl-cert-file
    N url     -mu --model-url
    """,
    {
        "draft": "pull it, then name its file with --model-draft",
        "grammar": _CONSTRAINT,
        "adapter": _ADAPTER,
        "media": _MEDIA,
        "rope": _ROPE,
        "norm": "requests say how a vector is normalised (embd_normalize); others have the Euclidean norm 1",
        "rerank": "reranking is not part of this version",
        "shift": "a conversation that outgrows the context ends; nothing is dropped behind its back",
        "prefill": "a last message of the assistant's is continued, unless a request has chat_template_kwargs with "
        "add_generation_prompt",
        "jinja": "chat templates are always rendered by Jinja",
        "path": "no files are served, and the routes stand at / and /v1",
        "tls": "put a reverse proxy in front for TLS",
        "url": "download the model with stride pull",
    },
)

FOREIGN = [*NO_EFFECT, *REFUSED]
