"""Addresses, and whether the tasks behind them are there and answer.

Imports from `_tf` and from `tf_backup` itself.
"""
