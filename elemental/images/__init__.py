"""Pictures: what is asked for, what was made, and how pictures are put together and compared."""
