"""Steps of a whole model: experts that a batch reaches, attention and its cache, fused layers, and their sum."""
