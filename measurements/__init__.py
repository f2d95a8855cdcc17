"""Computes, before anything boots, what a machine will measure, and explains every difference."""
