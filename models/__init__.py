"""Plain Keras models and their layers, independent of tf_backup so that baselines can use them.

Imports from no other package of the project than `models.data`.
"""
