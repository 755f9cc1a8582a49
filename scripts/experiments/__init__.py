"""Experiments of the paper, redone: one file each, by the name of its command.

`catalogue` lists them, `definition` says what each has, and `result_file` keeps their rows.
`straggler_fit` has the delays of the paper's cluster, as far as the paper states them. Imports from
`tf_backup`, `models` and `scripts.training`.
"""
