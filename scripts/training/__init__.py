"""Training that can be interrupted: presets, plans, checkpoints, progress.

Imports from `models` and `tf_backup`, and from nothing else in `scripts`.
"""
