"""Actors of training: workers, the chief, the engine that runs them, and evaluation.

Imports from `servers`, `network`, `rules` and `_tf`, and does not depend on Keras.
"""
