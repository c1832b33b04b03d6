"""Quality of pruned layers beside what it costs."""
