"""The merge modes, a file for each: what it is called, what it needs, and its formula."""
