"""The same work here and in a peer, in turn on one machine, as a ratio: `make bench`."""
