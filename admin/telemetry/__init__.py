"""What an installation tells of itself: log lines, traces, metrics."""
