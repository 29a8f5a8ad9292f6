"""The port to whatever makes pictures, and what stands behind it."""
