"""What several test folders share: process groups, small jobs, reading a run's weights."""
