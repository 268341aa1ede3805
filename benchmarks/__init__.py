"""Benchmarks: `python -m benchmarks.NAME`. A table on stderr, one JSON document on stdout, results/NAME.json; exit 1
where a bar is missed."""
