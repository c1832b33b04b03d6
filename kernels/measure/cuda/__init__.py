"""A CUDA device as a backend of campaigns."""
