"""What one replica can serve, how many replicas a target needs, and what they cost."""
