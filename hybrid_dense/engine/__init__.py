"""What surrounds a training run: precision, progress, safe checkpoints."""
