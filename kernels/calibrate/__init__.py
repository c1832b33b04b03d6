"""What a machine does at its best: micro-benchmarks."""
