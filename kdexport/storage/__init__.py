"""Bytes on disk: atomic files, hashes, tables, YAML. No meaning, no torch."""
