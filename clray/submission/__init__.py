"""A stream sent to a cluster: what goes along with it, the job that runs it, and how it is followed."""
