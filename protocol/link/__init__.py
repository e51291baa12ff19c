"""Models of bad links in the words of Linux' netem, on the caller's clock: no socket, no timer, no global random."""
