"""Advice on N and b, from the timeline of a training.

`recommend` is the door. `measured` reads from the timeline how long each worker would take in each
step, `survival` completes gradients that never arrived, `replay` makes the updates of every split
from these times, `resampling` says how sure the comparison is, and `advice` holds and prints the
result. NumPy, no TensorFlow. Imports from `timeline`.
"""
