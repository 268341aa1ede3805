"""Figures taken on this machine: time, memory, quality, and how far each can be trusted."""
