"""Timeline of a training: each gradient and each update.

`tables` defines the rows, `files` keeps them as Parquet. NumPy and pyarrow, no TensorFlow. Imports
from `rules` and `tf_backup` itself (checks, policy).
"""
