"""Who does what, in which order: workers, the chief, the engine that runs them, evaluation.

Imports from `servers`, `network`, `rules` and `_tf`; knows nothing of Keras.
"""
