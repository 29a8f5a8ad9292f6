"""The port to whatever makes images, and a folder for each host."""
