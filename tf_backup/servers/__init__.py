"""State on the parameter servers, and the functions that run there.

A gradient passes through `tokens`, `contribution`, `accumulator`, `gate` and `snapshot`, in this
order. The package imports from `rules` and `_tf`.
"""
