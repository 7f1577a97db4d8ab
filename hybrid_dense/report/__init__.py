"""Pictures of what a model does: galleries of predictions and curves of a training run."""
