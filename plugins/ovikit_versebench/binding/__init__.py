"""Whether picture and sound show the same things, by networks that bring both into one space."""
