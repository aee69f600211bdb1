"""report.html: what a run did and found, on one page that needs nothing else."""
