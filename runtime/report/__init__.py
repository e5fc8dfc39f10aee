"""report.html: everything that a results folder holds, in one file that needs no network; and a live view of it."""
