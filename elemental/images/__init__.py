"""Images: requested, read, written, compared and drawn into grids."""
