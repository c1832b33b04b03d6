"""Campaigns: which products to time on a device, and the rows that come of it."""
