"""The page: one image at a time, both models side by side. It knows `lib` and nothing else."""
