"""The adapter file that ships with the package: quantised differences to the mini base."""
