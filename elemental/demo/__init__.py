"""A small pair of checkpoints to try the program with."""
