"""Values that every room shares. Standard library only."""
