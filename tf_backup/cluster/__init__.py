"""The processes of a cluster: TF_CONFIG, pods, tasks, a cluster on this machine, the strategy.

Imports from all other packages.
"""
