"""The formulas of the merge modes, a file for each family."""
