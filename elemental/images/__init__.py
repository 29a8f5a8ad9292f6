"""Pictures: what is asked for, what was made, and the files they are kept in."""
