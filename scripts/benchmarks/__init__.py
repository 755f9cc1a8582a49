"""Parts of `scripts/benchmark.py`.

Models: `architectures.py` over `keras_layers.py` or `plain_layers.py`, and their `batches.py`.
Systems: listed in `catalogue.py`. A `task.py` process runs a module of `systems/`, as its `spec.py`
says, and talks to its parent through `channel.py`.
Measurement: `turns.py` measures the systems that `stage.py` keeps running. `running.py` is one
system of several `processes.py`. `counters.py` and `sockets.py` count.
Results: `rows.py` (CSV), `summary.py` (medians and ratios), `tables.py`, `picture.py`.

The script's own process never imports TensorFlow.
"""
