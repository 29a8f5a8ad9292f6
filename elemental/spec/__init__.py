"""Specs, block weights and recipes: text and plain data, with the standard library alone."""
