"""Running stages: step, update, trainer, one run."""
