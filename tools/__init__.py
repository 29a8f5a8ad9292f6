"""What made the files that come with the program; not part of the package."""
