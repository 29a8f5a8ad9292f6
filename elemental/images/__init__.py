"""Request, read, write and compare images, and draw grids of them."""
