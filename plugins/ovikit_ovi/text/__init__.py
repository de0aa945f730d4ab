"""Ovi's text side: the UMT5 conditioner, the prompt format and its linter."""
