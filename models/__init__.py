"""Plain Keras networks and their layers. Nothing here knows of tf_backup: baselines use it too.

Imports from nothing else in the project but `models.data`.
"""
