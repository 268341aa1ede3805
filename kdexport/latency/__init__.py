"""Latency before there is a student: calibrated on this machine, estimated for absent ones."""
