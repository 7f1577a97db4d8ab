"""Comparing models fairly: the same recipe, several seeds, what each image contributed, what is beyond chance."""
