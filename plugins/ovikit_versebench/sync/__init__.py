"""Synchrony of picture and sound by published networks."""
