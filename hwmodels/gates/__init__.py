"""What hardware units take, from a table of synthesis: gates, depth, registers; and how long a depth takes at a node."""
