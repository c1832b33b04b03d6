"""Pruning activations online: what criteria and mitigations cost, where the selector stands, when it breaks even."""
