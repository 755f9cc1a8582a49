"""The Keras interface: `wrap`, the optimizer, `fit` and `minimize`.

Only modules whose names begin with an underscore use private Keras APIs. Imports from all packages
except `cluster`.
"""
