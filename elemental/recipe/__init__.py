"""What to merge: specs, block weights, modes and recipes, as text and as data."""
