"""Pages about oneself, people and projects."""
