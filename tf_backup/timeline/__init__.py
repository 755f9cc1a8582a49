"""Timeline of a training: each gradient and each update.

`schema` defines the rows, and `parquet` keeps them in files. `update_sizes` counts the gradients of
each update, `windows` summarizes stretches, and `scalars` writes those for TensorBoard. NumPy and
pyarrow, no TensorFlow. Imports from `rules` and `tf_backup` itself (checks, policy).
"""
