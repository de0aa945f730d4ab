"""Folders of released weights: what belongs in them, and from one layout to another."""
