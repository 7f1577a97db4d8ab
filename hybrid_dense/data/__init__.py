"""Data sets and transforms that the hosts lack."""
