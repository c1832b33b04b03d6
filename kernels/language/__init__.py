"""Language models and texts, and what pruning costs them: the loss of a model, measured on real tokens.

A model is a package, a folder or a GGUF file, and a text comes from a package or a file. Nothing is fetched.
"""
