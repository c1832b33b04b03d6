"""The study: a checkpoint encoded, a model predicted, a report written."""
