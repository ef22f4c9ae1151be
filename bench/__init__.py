"""Benchmarks: ``script/bench NAME [--quick] [--json FILE]`` runs ``bench/NAME.py``."""
