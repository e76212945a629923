"""Where frames wait: the Redis queue (contract: `contracts.Queue`)."""
