"""Virtual clusters on a virtual clock, in one process.

`timing` finds only when updates happen, with NumPy. `delays` has models of how long gradients take.
Imports from `rules`, `timeline` and `tf_backup` itself (checks, policy).
"""
