"""Runs spread over many devices, with Ray."""
