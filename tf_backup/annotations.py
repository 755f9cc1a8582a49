"""Names for types that TensorFlow and Keras leave untyped, for annotations.

mypy checks nothing about them; they tell a reader what a value is.
"""

from __future__ import annotations

from typing import Any

Tensor = Any  # a tf.Tensor
Variable = Any  # a tf.Variable; in tf_backup, one on a parameter server
Operation = Any  # a tf.Operation
Model = Any  # a built keras.Model
Strategy = Any  # a tf.distribute.ParameterServerStrategy
GraphDef = Any  # a tf.compat.v1.GraphDef
NodeDef = Any  # a tf.compat.v1.NodeDef
