"""From limits to an architecture: predicted quality, and the rule that chooses."""
