"""What is seen, by published networks whose weights the user names."""
