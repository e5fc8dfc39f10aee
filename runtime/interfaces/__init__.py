"""What a job hands to every part of it, and what algorithms and families of environments have in common."""
