"""Where rows end up: one file per database (contract: `contracts.Store`)."""
