"""Worked examples, runnable from a checkout as `python -m examples.NAME`."""
