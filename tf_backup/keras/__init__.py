"""What Keras users hold and what Keras calls: `wrap`, the optimizer, `fit`, `minimize`.

Modules whose names begin with an underscore are the only ones that use private Keras. Imports from
all packages but `cluster`.
"""
