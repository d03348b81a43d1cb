"""What Handful knows about images and models; jobs and demo stand on it and never on each other."""
