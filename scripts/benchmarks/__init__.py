"""Parts of `scripts/benchmark.py`.

Models: `architectures.py`, written once over `keras_layers.py` and `plain_layers.py`; `batches.py`.
Systems: `catalogue.py` lists them, `systems/` has a file for each, which runs in a `task.py` and
answers its parent through a `channel.py`.
Measuring: `turns.py`, of what is on the `stage.py`: `running.py`'s systems, made of `processes.py`;
`counters.py` and `sockets.py` count.
Results: `rows.py` (CSV), `summary.py` (medians, ratios), `tables.py`, `picture.py`.

The script's own process never imports TensorFlow.
"""
