"""What the examples share: text as integer streams, and the baselines printed beside a result."""
