"""The algorithm as pure functions: which gradients are used, and which worker holds which place.

Nothing here imports TensorFlow. It imports only from `tf_backup` itself (errors, policy).
"""
