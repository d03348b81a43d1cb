"""What runs the jobs where nobody has a server."""
