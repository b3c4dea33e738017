"""Other ways to a smaller network, to hold the translation against."""
