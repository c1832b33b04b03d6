"""Every figure of the project: one theme, each function takes a table and returns `(fig, ax)`."""
