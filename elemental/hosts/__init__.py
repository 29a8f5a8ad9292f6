"""The port to the programs that make images, and a folder for each of these hosts."""
