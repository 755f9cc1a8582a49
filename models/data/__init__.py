"""Data sets by name, and the loaders behind them; `catalogue.load` is where to begin.

Imports from no other package of the project.
"""
