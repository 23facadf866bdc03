"""The strategies: one way of running a recurrence a file."""
