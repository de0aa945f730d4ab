"""A blind study of preferences: pairs of clips before raters, their votes, and what they say."""
