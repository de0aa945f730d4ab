"""What is said, how well it sounds, and who is seen: metrics by models that packages carry."""
