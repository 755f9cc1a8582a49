"""The only modules that use private or raw TensorFlow. Each entry names what it relies on.

The package imports from no other package of tf_backup.
"""
