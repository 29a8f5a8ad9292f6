"""XY plots and element checks: from the text of their values to finished grids."""
