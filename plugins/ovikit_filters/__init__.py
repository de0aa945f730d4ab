"""Filters for datasets that are prepared: what the paper leaves out, and what any dataset should."""
