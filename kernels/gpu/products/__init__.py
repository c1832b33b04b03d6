"""Products: tokens times N:M weights, or pruned tokens times dense weights."""
