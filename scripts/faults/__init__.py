"""Faults in the tasks of a training run on this machine, and what becomes of the training.

Scenario: a `fault.py` is written as `scenario.py` parses it, or drawn by `random_faults.py`.
Run: `training_process.py` starts scripts/train.py and finds its tasks (`process_tree.py`).
`course.py` is what its update log tells. `injector.py` injects the faults; `faulted_run.py` is the
loop over all of these.
Results: `judgement.py` says what failed, `fault_table.py` counts, `fault_progress.py` shows.

Nothing here imports TensorFlow. Imports from `tf_backup`.
"""
