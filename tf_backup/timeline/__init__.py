"""Timeline of a training: each gradient and each update.

`schema` defines the rows, `parquet` keeps them in files. NumPy and pyarrow, no TensorFlow. Imports
from `rules` and `tf_backup` itself (checks, policy).
"""
