"""Look at a data set before training: readers that keep what is broken, and a table of small checks.

`read_config` / `read_folder` → `Split`s → `examine` → `Report`.
"""
