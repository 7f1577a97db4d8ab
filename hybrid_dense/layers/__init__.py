"""Building blocks that every trunk shares; they import torch and nothing else."""
