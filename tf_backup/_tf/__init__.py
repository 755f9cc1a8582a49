"""The only modules that use private or raw TensorFlow. Each entry says what it relies on.

Imports from no other package of tf_backup.
"""
