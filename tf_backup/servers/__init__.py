"""State on the parameter servers, and the functions that run there.

Follow a gradient: `tokens`, `contribution`, `accumulator`, `gate`, `snapshot`. Imports from `rules`
and `_tf`.
"""
