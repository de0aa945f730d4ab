"""What a sound is, and how good, as published networks hear it."""
