"""Virtual clusters on a virtual clock, in one process.

`delays` has models of how long gradients take. `timing` finds only when updates happen,
`virtual_gate` what becomes of each gradient (both with NumPy), and `virtual_cluster` computes real
gradients; `keras.simulated` makes one for a Keras model. Imports from `rules`, `timeline`, `_tf`
and `tf_backup` itself.
"""
