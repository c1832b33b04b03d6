"""Two chips on one model: how far apart they are, and which part of their description makes the difference."""
