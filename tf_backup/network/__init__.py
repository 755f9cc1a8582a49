"""Addresses of tasks, and checks that the tasks are there and answer.

It imports from `_tf` and from `tf_backup` itself.
"""
