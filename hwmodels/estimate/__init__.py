"""What a product takes on a machine: exact traffic, the bound, the estimate above it, and its error bar."""
