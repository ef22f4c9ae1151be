"""Starts private real services for the demo and for tests; product code never imports it."""
