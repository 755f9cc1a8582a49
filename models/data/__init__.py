"""Data sets by name, and their loaders; start with `loading.load`.

Imports from no other package of the project.
"""
