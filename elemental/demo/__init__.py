"""A small pair of checkpoints, made on the spot, to try the program on."""
