"""Keep a model's weights as the CPU kernels want them, beside the model: from then on it starts at once.

Writes MODEL.packed, as large as the model itself. Starts then map it: nothing is read that memory still holds, nothing
is held twice, and several processes share it. The file is used as long as the model stays as it is; delete it at any
time.
"""

from __future__ import annotations

import sys

from stride.cli import options


def command(model: options.Model = None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from stride import ops
    from stride.errors import RequestError
    from stride.gguf import open_gguf
    from stride.load import model_path
    from stride.models import check_model

    if model is None:
        raise RequestError("the demo model starts at once as it is: name another with -m", field="model")
    with open_gguf(model_path(model)) as file:
        check_model(file)
        backend = ops.load("cpu")  # or says that there is none
        from stride.ops import packed
        from stride.ops.cpu import CpuBackend

        assert isinstance(backend, CpuBackend)
        tensors = [tensor for tensor in file.tensors.values() if len(tensor.shape) > 1]
        n_bytes = sum(map(backend.packed_bytes, tensors))
        console = Console(stderr=True)
        columns = (TextColumn("packing"), BarColumn(), DownloadColumn(binary_units=True))
        bar = Progress(
            *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        )
        with bar:
            task = bar.add_task("packing", total=n_bytes)
            path = packed.write(
                file.paths, tensors, backend.resident_weight, n_bytes, lambda done: bar.update(task, completed=done)
            )
    for note in backend.notes:
        print(f"stride: {note}", file=sys.stderr)
    print(path)
