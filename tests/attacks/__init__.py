"""Long attacks, each run by itself: ``python -m tests.attacks.NAME``; the tests run the same with few rounds."""
