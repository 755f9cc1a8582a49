"""Processes of a cluster: TF_CONFIG, pods, tasks, local clusters, and the strategy.

Imports from all other packages.
"""
