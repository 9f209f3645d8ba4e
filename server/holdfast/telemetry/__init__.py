"""What the process says about itself: logs, metrics, traces."""
