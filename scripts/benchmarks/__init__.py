"""Modules of `scripts/benchmark.py`.

Models: `architectures.py` over `keras_layers.py` or `plain_layers.py`, and their `batches.py`.
Systems: listed in `systems_compared.py`. A `task.py` process runs a module of `systems/`, a
`peer.py`, as its `spec.py` says, and talks to its parent through `channel.py`.
Measurement: `turns.py` measures the systems that `stage.py` keeps running. `running.py` is one
system of several `processes.py`. `counters.py` and `sockets.py` count.
Results: `progress_lines.py`, `rows.py` (CSV), `environment.py`, `summary.py` (medians and ratios),
`markdown.py` (tables), `chart.py` (picture).

The script's own process never imports TensorFlow.
"""
