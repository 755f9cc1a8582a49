"""Plain Keras models and their data. Nothing here knows of tf_backup: baselines use it too."""
