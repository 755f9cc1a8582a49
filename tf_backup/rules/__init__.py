"""The algorithm as pure functions: which gradients are used, and who holds which place.

Nothing here imports TensorFlow. Imports only from `tf_backup` itself (errors, policy).
"""
