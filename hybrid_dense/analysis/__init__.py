"""What a model costs and what its parts do."""
