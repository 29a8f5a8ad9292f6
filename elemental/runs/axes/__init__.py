"""The axes of XY plots: what each varies, and how its values are read."""
