"""Checkpoints, from which a job resumes, and model directories, which are served."""
