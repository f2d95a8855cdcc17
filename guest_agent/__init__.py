"""The program that runs inside the machine: mounts, measures, reports."""
