"""What ``Fused`` calls: trace (cell → description), emit (→ C++), build (→ library), call."""
